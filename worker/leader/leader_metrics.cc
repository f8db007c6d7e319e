#include "worker/leader/leader_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include <algorithm>
#include <string>
#include <vector>

#include "common/metrics.h"

namespace longhaul::worker::leader {
namespace {

using prometheus::Registry;

std::string Name(const char* name) { return std::string("longhaul_worker_") + name; }

prometheus::Gauge& Gauge(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(Name(name)).Help(help).Register(registry).Add({});
}

prometheus::Counter& Counter(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(Name(name)).Help(help).Register(registry).Add({});
}

prometheus::Histogram& Histogram(Registry& registry, const char* name, const char* help,
                                 const std::vector<double>& buckets) {
  return prometheus::BuildHistogram()
      .Name(Name(name))
      .Help(help)
      .Register(registry)
      .Add({}, buckets);
}

std::array<prometheus::Counter*, 4> FinishedCounters(Registry& registry) {
  auto& family = prometheus::BuildCounter()
                     .Name(Name("requests_finished_total"))
                     .Help("Requests that ended, by how.")
                     .Register(registry);
  return {&family.Add({{"reason", "stop"}}), &family.Add({{"reason", "length"}}),
          &family.Add({{"reason", "cancelled"}}), &family.Add({{"reason", "error"}})};
}

std::array<prometheus::Gauge*, 3> CachedGauges(Registry& registry) {
  auto& family = prometheus::BuildGauge()
                     .Name(Name("kv_blocks_cached"))
                     .Help("KV blocks that hold a prefix which a request may begin with, by tier.")
                     .Register(registry);
  return {&family.Add({{"tier", "device"}}), &family.Add({{"tier", "host"}}),
          &family.Add({{"tier", "disk"}})};
}

}  // namespace

LeaderMetrics::LeaderMetrics()
    : registry_(std::make_shared<Registry>()),
      running_(Gauge(*registry_, "running_requests", "Requests that hold KV blocks.")),
      waiting_(
          Gauge(*registry_, "waiting_requests", "Requests that wait for KV blocks or a place.")),
      kv_blocks_(Gauge(*registry_, "kv_blocks", "KV blocks of 256 tokens, in all.")),
      kv_blocks_used_(
          Gauge(*registry_, "kv_blocks_used", "KV blocks held by requests or promised to them.")),
      ready_(Gauge(*registry_, "group_ready", "1 while the ranks are up.")),
      prefill_tokens_(Counter(*registry_, "prefill_tokens_total", "Prompt tokens processed.")),
      generated_tokens_(Counter(*registry_, "generated_tokens_total", "Tokens output.")),
      finished_(FinishedCounters(*registry_)),
      rejected_(Counter(*registry_, "requests_rejected_total", "Requests sent elsewhere.")),
      replayed_(Counter(*registry_, "requests_replayed_total",
                        "Requests started again after their ranks were lost.")),
      restarts_(
          Counter(*registry_, "rank_restarts_total", "Times the group's ranks were restarted.")),
      first_token_(Histogram(*registry_, "time_to_first_token_seconds",
                             "From arrival at the leader to the first token.",
                             FirstTokenBuckets())),
      inter_token_(Histogram(*registry_, "inter_token_seconds",
                             "Between two tokens of one request.", StepBuckets())),
      unit_(Histogram(*registry_, "unit_seconds", "Execution of one unit, as the ranks measure it.",
                      StepBuckets())),
      unit_predicted_(Histogram(*registry_, "unit_predicted_seconds",
                                "What was predicted for the units in unit_seconds.",
                                StepBuckets())),
      kv_blocks_cached_(CachedGauges(*registry_)),
      prefix_lookup_tokens_(Counter(*registry_, "prefix_lookup_tokens_total",
                                    "Prompt tokens of requests that started.")),
      prefix_hit_tokens_(
          Counter(*registry_, "prefix_hit_tokens_total",
                  "Of prefix_lookup_tokens_total, those whose KV was in the prefix cache.")),
      preemptions_(Counter(*registry_, "preemptions_total",
                           "Times a request gave its KV blocks to others.")),
      repeated_tokens_(Counter(*registry_, "repeated_tokens_total",
                               "Tokens run again after a preemption or a loss of the ranks.")),
      cancel_to_free_(Histogram(*registry_, "cancel_to_free_seconds",
                                "From a cancel until no plan in flight names the request.",
                                StepBuckets())),
      busy_(Counter(*registry_, "busy_seconds_total", "Time with plans in flight.")),
      stage_busy_(prometheus::BuildCounter()
                      .Name(Name("stage_busy_seconds_total"))
                      .Help("Time in which a pipeline stage computed.")
                      .Register(*registry_)),
      cost_fit_ok_(Gauge(*registry_, "cost_fit_ok",
                         "1 while the cost model is used: known, and its predictions hold.")),
      cost_error_(Gauge(*registry_, "cost_error_ratio",
                        "Relative error of the cost model's predictions of late.")),
      warm_up_(Gauge(*registry_, "warm_up_seconds", "Work of the warm-up, 0 if there was none.")) {}

void LeaderMetrics::LoadChanged(const Load& load) {
  running_.Set(load.running_requests);
  waiting_.Set(load.waiting_requests);
  kv_blocks_.Set(load.kv_blocks);
  kv_blocks_used_.Set(load.kv_blocks - load.free_kv_blocks);
  ready_.Set(load.ready() ? 1 : 0);
}

void LeaderMetrics::KvChanged(const PrefixCache& cache) {
  using Tier = PrefixCache::Tier;
  constexpr std::array kTiers = {Tier::kDevice, Tier::kHost, Tier::kDisk};
  for (size_t i = 0; i < kTiers.size(); ++i) {
    kv_blocks_cached_[i]->Set(cache.num_cached(kTiers[i]));
  }
}

void LeaderMetrics::PromptLookedUp(int64_t prompt_tokens, int64_t cached_tokens) {
  prefix_lookup_tokens_.Increment(static_cast<double>(prompt_tokens));
  prefix_hit_tokens_.Increment(static_cast<double>(cached_tokens));
}

void LeaderMetrics::Preempted() { preemptions_.Increment(); }

void LeaderMetrics::RepeatedTokens(int64_t tokens) {
  repeated_tokens_.Increment(static_cast<double>(tokens));
}

void LeaderMetrics::CancelledBlocksFreed(absl::Duration since_cancel) {
  cancel_to_free_.Observe(absl::ToDoubleSeconds(since_cancel));
}

void LeaderMetrics::RequestRejected() { rejected_.Increment(); }

void LeaderMetrics::RequestFinished(FinishReason reason) {
  finished_[static_cast<size_t>(reason)]->Increment();
}

void LeaderMetrics::RequestReplayed() { replayed_.Increment(); }

void LeaderMetrics::PrefillTokens(int64_t tokens) {
  prefill_tokens_.Increment(static_cast<double>(tokens));
}

void LeaderMetrics::FirstToken(absl::Duration since_arrival) {
  generated_tokens_.Increment();
  first_token_.Observe(absl::ToDoubleSeconds(since_arrival));
}

void LeaderMetrics::NextToken(absl::Duration since_last) {
  generated_tokens_.Increment();
  inter_token_.Observe(absl::ToDoubleSeconds(since_last));
}

void LeaderMetrics::UnitDone(double seconds, double predicted_seconds) {
  unit_.Observe(seconds);
  if (predicted_seconds > 0) unit_predicted_.Observe(predicted_seconds);
}

void LeaderMetrics::Busy(absl::Duration time, std::span<const double> stage_seconds) {
  busy_.Increment(std::max(absl::ToDoubleSeconds(time), 0.0));
  for (size_t stage = 0; stage < stage_seconds.size(); ++stage) {
    stage_busy_.Add({{"stage", std::to_string(stage)}}).Increment(stage_seconds[stage]);
  }
}

void LeaderMetrics::RanksRestarted() { restarts_.Increment(); }

void LeaderMetrics::CostFitted(bool believed, double error) {
  cost_fit_ok_.Set(believed ? 1 : 0);
  cost_error_.Set(error);
}

void LeaderMetrics::WarmedUp(double seconds) { warm_up_.Set(seconds); }

}  // namespace longhaul::worker::leader
