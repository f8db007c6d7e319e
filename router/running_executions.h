#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "router/admission_queue.h"
#include "router/worker_client.h"

namespace longhaul::router {

// The streams to leaders, each from its start to its EndedEvent, by a number of its own: a choice
// that is tried again has another stream while its first one still closes.
//
// Thread-compatible, owned by the dispatch thread.
class RunningExecutions {
 public:
  // Called from gRPC's threads; returns at once.
  using OnEvent = std::function<void(uint64_t number, ExecutionEvent event)>;

  // `workers` is borrowed and outlives this. Precondition of the destructor: empty().
  RunningExecutions(const WorkerClient& workers, OnEvent on_event);

  // Returns the number, > 0.
  uint64_t Start(const ExecutionKey& key, const std::string& address, ExecutionSpec spec);

  // Whom an event of the stream concerns; absent if nobody any more. The number is a running one's.
  std::optional<ExecutionKey> Find(uint64_t number) const;

  // Asks for the next event, once the last one is handled.
  void Resume(uint64_t number);

  // The choice has gone on without it: the stream is closed and its events concern nobody.
  void Detach(uint64_t number);

  // What runs at these addresses ends: their leaders hang. Their EndedEvents follow.
  void LoseAt(const std::vector<std::string>& addresses);

  // Its EndedEvent has come.
  void Remove(uint64_t number);

  bool empty() const { return running_.empty(); }

 private:
  struct Running {
    std::unique_ptr<Execution> call;
    ExecutionKey key;
    std::string address;
    bool detached = false;
  };
  const Running& At(uint64_t number) const;

  const WorkerClient& workers_;
  const OnEvent on_event_;
  std::map<uint64_t, Running> running_;
  uint64_t next_number_ = 1;
};

}  // namespace longhaul::router
