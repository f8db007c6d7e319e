#include "worker/leader/engine.h"

#include <optional>
#include <utility>

#include "common/logging.h"

namespace longhaul::worker::leader {
namespace {

// Commands. Streams are limited to far fewer (worker_service), so the reserved half cannot fill up.
constexpr size_t kQueueCapacity = 65'536;

}  // namespace

Engine::Engine(const EngineOptions& options, PlanSink& sink, RequestTable& requests,
               LoadBoard& board, LeaderMetrics& metrics, const Clock& clock)
    : clock_(clock),
      core_(options, sink, requests, board, metrics),
      commands_(kQueueCapacity),
      thread_([this] { Run(); }) {}

Engine::~Engine() { Stop(); }

absl::Status Engine::Submit(Request request, std::shared_ptr<EventLog> log) {
  return PushSheddable(SubmitCommand{std::move(request), std::move(log)});
}

absl::Status Engine::Cancel(const RequestId& id) { return PushSheddable(CancelCommand{id}); }

void Engine::ReaderLeft(const RequestId& id) { PushReserved(ReaderLeftCommand{id}); }

absl::Status Engine::Drain(absl::Time deadline) { return PushSheddable(DrainCommand{deadline}); }

void Engine::OnGroupUp(uint64_t incarnation, const GroupFacts& facts) {
  PushReserved(GroupUpCommand{incarnation, facts});
}

void Engine::OnStepDone(uint64_t incarnation, StepResult result) {
  PushReserved(StepDoneCommand{incarnation, std::move(result)});
}

void Engine::OnStepStuck(uint64_t incarnation) { PushReserved(StepStuckCommand{incarnation}); }

void Engine::OnGroupDown(uint64_t incarnation, absl::Status reason) {
  PushReserved(GroupDownCommand{incarnation, std::move(reason)});
}

absl::Status Engine::PushSheddable(Command command) {
  if (commands_.size() >= kQueueCapacity / 2) {
    return absl::ResourceExhaustedError("the engine has too many commands waiting");
  }
  return commands_.Push(std::move(command));
}

void Engine::PushReserved(Command command) {
  const absl::Status pushed = commands_.Push(std::move(command));
  // After Stop there is nobody to tell.
  CHECK(pushed.ok() || absl::IsCancelled(pushed)) << pushed;
}

void Engine::Stop() {
  commands_.Close();
  if (thread_.joinable()) thread_.join();
}

void Engine::Run() {
  core_.Advance(clock_.Now());  // publishes a first load
  while (true) {
    std::optional<Command> command = commands_.Pop(core_.next_wake());
    const absl::Time now = clock_.Now();
    if (command) {
      Execute(*std::move(command), now);
    } else if (commands_.closed()) {
      break;
    }
    core_.Advance(now);
  }
  core_.Stop(absl::UnavailableError("the leader is stopping"), clock_.Now());
}

void Engine::Execute(Command command, absl::Time now) {
  if (auto* submit = std::get_if<SubmitCommand>(&command)) {
    core_.Submit(std::move(submit->request), submit->log, now);
  } else if (const auto* cancel = std::get_if<CancelCommand>(&command)) {
    core_.Cancel(cancel->id, now);
  } else if (const auto* left = std::get_if<ReaderLeftCommand>(&command)) {
    core_.ReaderLeft(left->id, now);
  } else if (const auto* drain = std::get_if<DrainCommand>(&command)) {
    core_.Drain(drain->deadline);
  } else if (const auto* up = std::get_if<GroupUpCommand>(&command)) {
    core_.GroupUp(up->incarnation, up->facts);
  } else if (const auto* done = std::get_if<StepDoneCommand>(&command)) {
    core_.StepDone(done->incarnation, done->result, now);
  } else if (const auto* stuck = std::get_if<StepStuckCommand>(&command)) {
    core_.StepStuck(stuck->incarnation);
  } else if (const auto* down = std::get_if<GroupDownCommand>(&command)) {
    core_.GroupDown(down->incarnation, down->reason, now);
  }
}

}  // namespace longhaul::worker::leader
