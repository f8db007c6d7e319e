#pragma once

#include <memory>
#include <thread>
#include <variant>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/queue.h"
#include "worker/leader/engine_core.h"

namespace longhaul::worker::leader {

// The engine thread: takes commands in order and gives them to the EngineCore, which it owns.
//
// Thread-safe; no call blocks. What a request does is told through its EventLog. The thread sleeps
// when there is nothing to do.
class Engine final : public GroupListener {
 public:
  // All references are borrowed. `sink` is first used after OnGroupUp.
  Engine(const EngineOptions& options, PlanSink& sink, RequestTable& requests, LoadBoard& board,
         LeaderMetrics& metrics, const Clock& clock);
  // Stop, if it was not called.
  ~Engine() override;

  // Takes the request over. Everything that may be wrong with it is told through `log`; the caller
  // has added its reader to the log before. kResourceExhausted: too many commands wait, nothing was
  // kept.
  absl::Status Submit(Request request, std::shared_ptr<EventLog> log);
  // kResourceExhausted as above. Idempotent; unknown ids are ignored.
  absl::Status Cancel(const RequestId& id);
  // A stream that Submit or Attach gave a log to is gone, and its reader removed. Once a stream.
  void ReaderLeft(const RequestId& id);
  absl::Status Drain(absl::Time deadline);

  void OnGroupUp(uint64_t incarnation, const GroupFacts& facts) override;
  void OnStepDone(uint64_t incarnation, StepResult result) override;
  void OnStepStuck(uint64_t incarnation) override;
  void OnGroupDown(uint64_t incarnation, absl::Status reason) override;

  // Fails every request with kUnavailable and ends the thread. Idempotent.
  void Stop();

 private:
  struct SubmitCommand {
    Request request;
    std::shared_ptr<EventLog> log;
  };
  struct CancelCommand {
    RequestId id;
  };
  struct ReaderLeftCommand {
    RequestId id;
  };
  struct DrainCommand {
    absl::Time deadline;
  };
  struct GroupUpCommand {
    uint64_t incarnation;
    GroupFacts facts;
  };
  struct StepDoneCommand {
    uint64_t incarnation;
    StepResult result;
  };
  struct StepStuckCommand {
    uint64_t incarnation;
  };
  struct GroupDownCommand {
    uint64_t incarnation;
    absl::Status reason;
  };
  using Command = std::variant<SubmitCommand, CancelCommand, ReaderLeftCommand, DrainCommand,
                               GroupUpCommand, StepDoneCommand, StepStuckCommand, GroupDownCommand>;

  void Run();
  void Execute(Command command, absl::Time now);
  // For what routers ask: refused while the queue is half full.
  absl::Status PushSheddable(Command command);
  // For what must not be lost. Its number is bounded: one a stream, one a plan in flight, few a
  // group.
  void PushReserved(Command command);

  const Clock& clock_;
  EngineCore core_;  // engine thread only
  BoundedQueue<Command> commands_;
  std::thread thread_;
};

}  // namespace longhaul::worker::leader
