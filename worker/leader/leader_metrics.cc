#include "worker/leader/leader_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

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

}  // namespace

LeaderMetrics::LeaderMetrics()
    : registry_(std::make_shared<Registry>()),
      running_(Gauge(*registry_, "running_requests", "Requests that hold KV blocks.")),
      waiting_(
          Gauge(*registry_, "waiting_requests", "Requests that wait for KV blocks or a place.")),
      kv_blocks_(Gauge(*registry_, "kv_blocks", "KV blocks of 256 tokens, in all.")),
      kv_blocks_used_(Gauge(*registry_, "kv_blocks_used", "KV blocks reserved by requests.")),
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
                                StepBuckets())) {}

void LeaderMetrics::LoadChanged(const Load& load) {
  running_.Set(load.running_requests);
  waiting_.Set(load.waiting_requests);
  kv_blocks_.Set(load.kv_blocks);
  kv_blocks_used_.Set(load.kv_blocks - load.free_kv_blocks);
  ready_.Set(load.ready() ? 1 : 0);
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

void LeaderMetrics::RanksRestarted() { restarts_.Increment(); }

}  // namespace longhaul::worker::leader
