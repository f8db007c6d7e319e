#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "router/request.h"

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
class Registry;
}  // namespace prometheus

namespace longhaul::router {

// Why a request was turned away before it ran.
enum class ShedReason { kBufferFull, kQueueFull, kDeadline };
// Why an execution went back to the queue.
enum class RedispatchReason { kRejected, kUnavailable };

// The router's metrics, longhaul_router_*: verbs for those who count, names only here.
// Thread-safe.
class RouterMetrics {
 public:
  RouterMetrics();
  ~RouterMetrics();

  void RequestReceived();
  // Once a request: finished choices (the reason of the first), or the error's code.
  void RequestFinished(FinishReason reason);
  void RequestFailed(absl::StatusCode code);
  void RequestShed(ShedReason reason);

  void Tokenized(absl::Duration duration, int64_t prompt_tokens);
  void QueueDepth(size_t executions);
  void LiveRequests(size_t requests);
  void Dispatched(absl::Duration waited);
  void Redispatched(RedispatchReason reason);
  void FirstToken(absl::Duration since_arrival);
  void TokensGenerated(int64_t tokens);
  void GroupsReady(int32_t ready, int32_t configured);

  prometheus::Registry& registry() { return *registry_; }

 private:
  const std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Counter* received_;
  std::array<prometheus::Counter*, 3> finished_;      // by FinishReason
  std::array<prometheus::Counter*, 17> failed_;       // by absl::StatusCode
  std::array<prometheus::Counter*, 3> shed_;          // by ShedReason
  std::array<prometheus::Counter*, 2> redispatched_;  // by RedispatchReason
  prometheus::Counter* prompt_tokens_;
  prometheus::Counter* generated_tokens_;
  prometheus::Histogram* tokenize_seconds_;
  prometheus::Histogram* queue_seconds_;
  prometheus::Histogram* first_token_seconds_;
  prometheus::Gauge* queue_depth_;
  prometheus::Gauge* live_requests_;
  prometheus::Gauge* groups_ready_;
  prometheus::Gauge* groups_configured_;
};

}  // namespace longhaul::router
