#pragma once

#include <prometheus/family.h>
#include <prometheus/registry.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/time/time.h"
#include "worker/leader/event_log.h"
#include "worker/leader/load_board.h"
#include "worker/leader/prefix_cache.h"

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
}  // namespace prometheus

namespace longhaul::worker::leader {

// The leader's probe: what happened, in verbs; names, units and buckets are here and in the .cc
// only. Thread-safe. Labels are closed sets.
//
//   longhaul_worker_running_requests, _waiting_requests, _kv_blocks, _kv_blocks_used    gauges
//   longhaul_worker_group_ready                                                         1 or 0
//   longhaul_worker_prefill_tokens_total, _generated_tokens_total                       tokens
//   longhaul_worker_requests_finished_total{reason="stop|length|cancelled|error"}
//   longhaul_worker_requests_rejected_total, _requests_replayed_total, _rank_restarts_total
//   longhaul_worker_time_to_first_token_seconds, _inter_token_seconds                   histograms
//   longhaul_worker_unit_seconds, _unit_predicted_seconds                               histograms
//   longhaul_worker_kv_blocks_cached{tier="device|host|disk"}                           gauges
//   longhaul_worker_prefix_lookup_tokens_total, _prefix_hit_tokens_total                tokens
//   longhaul_worker_preemptions_total, _repeated_tokens_total
//   longhaul_worker_cancel_to_free_seconds                                              histogram
//   longhaul_worker_busy_seconds_total, _stage_busy_seconds_total{stage}                seconds
//   longhaul_worker_cost_fit_ok                                                         1 or 0
//   longhaul_worker_cost_error_ratio, _warm_up_seconds                                  gauges
class LeaderMetrics {
 public:
  LeaderMetrics();

  void LoadChanged(const Load& load);
  void KvChanged(const PrefixCache& cache);
  void RequestRejected();
  void RequestFinished(FinishReason reason);
  void RequestReplayed();
  // A request ended that had started, with so many of its prompt's tokens from the cache.
  void PromptLookedUp(int64_t prompt_tokens, int64_t cached_tokens);
  void Preempted();
  // Tokens that were run again, after a preemption or a loss.
  void RepeatedTokens(int64_t tokens);
  // From a cancel until no plan in flight names the request's blocks.
  void CancelledBlocksFreed(absl::Duration since_cancel);
  void PrefillTokens(int64_t tokens);
  void FirstToken(absl::Duration since_arrival);
  void NextToken(absl::Duration since_last);
  // `predicted_seconds`: 0 if there was no prediction.
  void UnitDone(double seconds, double predicted_seconds);
  void RanksRestarted();
  // So much time with plans in flight, in which the stages computed for so long each.
  void Busy(absl::Duration time, std::span<const double> stage_seconds);
  // Whether costs are known and believed, and how far off predictions were of late.
  void CostFitted(bool believed, double error);
  void WarmedUp(double seconds);

  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

 private:
  // Metrics live in the registry as long as it does.
  const std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Gauge& running_;
  prometheus::Gauge& waiting_;
  prometheus::Gauge& kv_blocks_;
  prometheus::Gauge& kv_blocks_used_;
  prometheus::Gauge& ready_;
  prometheus::Counter& prefill_tokens_;
  prometheus::Counter& generated_tokens_;
  std::array<prometheus::Counter*, 4> finished_;  // by FinishReason
  prometheus::Counter& rejected_;
  prometheus::Counter& replayed_;
  prometheus::Counter& restarts_;
  prometheus::Histogram& first_token_;
  prometheus::Histogram& inter_token_;
  prometheus::Histogram& unit_;
  prometheus::Histogram& unit_predicted_;
  std::array<prometheus::Gauge*, 3> kv_blocks_cached_;  // by tier
  prometheus::Counter& prefix_lookup_tokens_;
  prometheus::Counter& prefix_hit_tokens_;
  prometheus::Counter& preemptions_;
  prometheus::Counter& repeated_tokens_;
  prometheus::Histogram& cancel_to_free_;
  prometheus::Counter& busy_;
  prometheus::Family<prometheus::Counter>& stage_busy_;
  prometheus::Gauge& cost_fit_ok_;
  prometheus::Gauge& cost_error_;
  prometheus::Gauge& warm_up_;
};

}  // namespace longhaul::worker::leader
