#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <cstdint>
#include <memory>

#include "worker/rank/kv_mover.h"
#include "worker/step_plan.h"

namespace longhaul::worker::rank {

// The probe of a rank: what happened, in verbs; names longhaul_worker_rank_* live here only.
// Thread-safe.
class RankMetrics {
 public:
  RankMetrics();

  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

  // Weights and KV cache are in memory, after `seconds`.
  void Loaded(double seconds, int64_t weight_bytes, int64_t kv_bytes, int64_t kv_blocks);
  // A move of a plan was done, or failed.
  void BlockMoved(const KvMover::Outcome& outcome);
  // A step was executed; `num_sequences` are alive after it.
  void StepExecuted(const StepPlan& plan, const StepResult& result, size_t num_sequences);

 private:
  const std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Counter& steps_;
  prometheus::Histogram& step_seconds_;
  prometheus::Counter& tokens_;
  prometheus::Counter& sampled_tokens_;
  prometheus::Counter& scored_tokens_;
  prometheus::Counter& sequence_errors_;
  prometheus::Gauge& sequences_;
  prometheus::Gauge& load_seconds_;
  prometheus::Gauge& weight_bytes_;
  prometheus::Gauge& kv_bytes_;
  prometheus::Gauge& kv_blocks_;
  // By source and target, each of which is another tier's.
  prometheus::Family<prometheus::Counter>& moves_;
  prometheus::Family<prometheus::Counter>& moved_bytes_;
  prometheus::Family<prometheus::Histogram>& move_seconds_;
};

}  // namespace longhaul::worker::rank
