#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/queue.h"
#include "router/prepare_request.h"
#include "router/request.h"
#include "router/router_metrics.h"
#include "router/served_model.h"

namespace longhaul::router {

struct TokenizeJob {
  GenerateRequest request;
  int64_t prompt_bytes = 0;
  RequestLimits limits;                          // that count for this request
  std::vector<Digest> prefix_roots;              // of the groups
  std::shared_ptr<std::atomic<bool>> abandoned;  // set: skip it, nobody wants the outcome
};

// Prepares requests on two threads of its own: one for prompts above kLongPromptBytes, one for the
// others, so that a chat never waits behind five megabytes of text, and neither dispatch nor I/O
// does. Also computes the prompts' prefix identities: about 10 ms for a million tokens.
// Thread-safe.
class TokenizePool {
 public:
  static constexpr int64_t kLongPromptBytes = 256 << 10;

  // Called from the pool's threads once for each job that was not abandoned.
  using OnPrepared = std::function<void(const RequestId&, absl::StatusOr<PreparedRequest>)>;

  // `capacity`: jobs that wait in each lane. `model`, `clock` and `metrics` are borrowed and
  // outlive this. `seed_source` draws the seeds of requests that have none.
  TokenizePool(size_t capacity, const ServedModel& model, const Clock& clock,
               RouterMetrics& metrics, uint64_t seed_source, OnPrepared on_prepared);
  ~TokenizePool();  // jobs that wait are dropped
  TokenizePool(const TokenizePool&) = delete;
  TokenizePool& operator=(const TokenizePool&) = delete;

  // kResourceExhausted if the lane is full.
  absl::Status Submit(TokenizeJob job);

 private:
  struct Lane {
    Lane(size_t capacity, uint64_t seed) : jobs(capacity), seeds(seed) {}
    BoundedQueue<TokenizeJob> jobs;
    std::mt19937_64 seeds;  // the lane's thread only
    std::thread thread;
  };

  void Run(Lane& lane);

  const ServedModel& model_;
  const Clock& clock_;
  RouterMetrics& metrics_;
  const OnPrepared on_prepared_;
  std::atomic<bool> stopping_ = false;
  Lane short_lane_;
  Lane long_lane_;
};

}  // namespace longhaul::router
