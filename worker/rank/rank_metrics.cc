#include "worker/rank/rank_metrics.h"

#include <string>

#include "common/metrics.h"

namespace longhaul::worker::rank {
namespace {

prometheus::Counter& Counter(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

prometheus::Gauge& Gauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

}  // namespace

RankMetrics::RankMetrics()
    : registry_(std::make_shared<prometheus::Registry>()),
      steps_(Counter(*registry_, "longhaul_worker_rank_steps_total", "Step plans executed.")),
      step_seconds_(prometheus::BuildHistogram()
                        .Name("longhaul_worker_rank_step_seconds")
                        .Help("Execution of one step plan, without waiting for it.")
                        .Register(*registry_)
                        .Add({}, StepBuckets())),
      tokens_(Counter(*registry_, "longhaul_worker_rank_tokens_total",
                      "Tokens taken through the first layer of a unit: prompt and output.")),
      sampled_tokens_(Counter(*registry_, "longhaul_worker_rank_sampled_tokens_total",
                              "Tokens sampled by this rank.")),
      scored_tokens_(Counter(*registry_, "longhaul_worker_rank_prompt_logprobs_total",
                             "Prompt tokens whose logprobs this rank computed.")),
      sequence_errors_(Counter(*registry_, "longhaul_worker_rank_sequence_errors_total",
                               "Sequences that failed for NaN or Inf in their logits.")),
      sequences_(
          Gauge(*registry_, "longhaul_worker_rank_sequences", "Sequences that this rank holds.")),
      load_seconds_(Gauge(*registry_, "longhaul_worker_rank_load_seconds",
                          "Time to load the weights and allocate the KV cache.")),
      weight_bytes_(
          Gauge(*registry_, "longhaul_worker_rank_weight_bytes", "Memory of this rank's weights.")),
      kv_bytes_(
          Gauge(*registry_, "longhaul_worker_rank_kv_bytes", "Memory reserved for the KV cache.")),
      kv_blocks_(Gauge(*registry_, "longhaul_worker_rank_kv_blocks",
                       "Blocks that the KV cache is made of.")),
      moves_(prometheus::BuildCounter()
                 .Name("longhaul_worker_rank_kv_moves_total")
                 .Help("KV blocks copied between tiers, or not.")
                 .Register(*registry_)),
      moved_bytes_(prometheus::BuildCounter()
                       .Name("longhaul_worker_rank_kv_moved_bytes_total")
                       .Help("Bytes of the KV blocks that were copied between tiers.")
                       .Register(*registry_)),
      move_seconds_(prometheus::BuildHistogram()
                        .Name("longhaul_worker_rank_kv_move_seconds")
                        .Help("One KV block's way from tier to tier, checksums included.")
                        .Register(*registry_)) {}

void RankMetrics::Loaded(double seconds, int64_t weight_bytes, int64_t kv_bytes,
                         int64_t kv_blocks) {
  load_seconds_.Set(seconds);
  weight_bytes_.Set(static_cast<double>(weight_bytes));
  kv_bytes_.Set(static_cast<double>(kv_bytes));
  kv_blocks_.Set(static_cast<double>(kv_blocks));
}

void RankMetrics::BlockMoved(const KvMover::Outcome& outcome) {
  const prometheus::Labels way = {{"from", KvMover::NameOf(outcome.move.from)},
                                  {"to", KvMover::NameOf(outcome.move.to)}};
  prometheus::Labels labels = way;
  labels["result"] = outcome.done ? "done" : "failed";
  moves_.Add(labels).Increment();
  if (!outcome.done) return;
  moved_bytes_.Add(way).Increment(static_cast<double>(outcome.bytes));
  move_seconds_.Add(way, StepBuckets()).Observe(outcome.seconds);
}

void RankMetrics::StepExecuted(const StepPlan& plan, const StepResult& result,
                               size_t num_sequences) {
  steps_.Increment();
  step_seconds_.Observe(result.seconds);
  for (const Unit& unit : plan.units) {
    if (unit.layer_begin != 0) continue;
    for (const Slice& slice : unit.slices) {
      tokens_.Increment(static_cast<double>(slice.token_ids.size()));
    }
  }
  sampled_tokens_.Increment(static_cast<double>(result.sampled.size()));
  for (const SequencePromptLogprobs& part : result.prompt_logprobs) {
    scored_tokens_.Increment(static_cast<double>(part.tokens.size()));
  }
  sequence_errors_.Increment(static_cast<double>(result.errors.size()));
  sequences_.Set(static_cast<double>(num_sequences));
}

}  // namespace longhaul::worker::rank
