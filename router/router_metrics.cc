#include "router/router_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "common/metrics.h"

namespace longhaul::router {
namespace {

// Seconds. A million tokens are about 5 MB of text, some seconds of tokenizing.
const std::vector<double> kTokenizeBuckets = {0.0001, 0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30};
const std::vector<double> kQueueBuckets = {0.001, 0.01, 0.1, 0.5, 1,   2,    5,   10,
                                           30,    60,   120, 300, 600, 1200, 3600};

prometheus::Counter* AddCounter(prometheus::Registry& registry, const char* name, const char* help,
                                const prometheus::Labels& labels = {}) {
  return &prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(labels);
}

prometheus::Gauge* AddGauge(prometheus::Registry& registry, const char* name, const char* help) {
  return &prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

prometheus::Histogram* AddHistogram(prometheus::Registry& registry, const char* name,
                                    const char* help, const std::vector<double>& buckets) {
  return &prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, buckets);
}

}  // namespace

RouterMetrics::RouterMetrics() : registry_(std::make_shared<prometheus::Registry>()) {
  prometheus::Registry& registry = *registry_;
  received_ = AddCounter(registry, "longhaul_router_requests_received_total",
                         "Requests that a frontend handed over");
  constexpr char kRequests[] = "longhaul_router_requests_total";
  constexpr char kRequestsHelp[] = "Requests that ended, by outcome";
  const std::array<const char*, 3> reasons = {"stop", "length", "cancelled_by_worker"};
  for (size_t i = 0; i < reasons.size(); ++i) {
    finished_[i] = AddCounter(registry, kRequests, kRequestsHelp, {{"outcome", reasons[i]}});
  }
  for (size_t i = 0; i < failed_.size(); ++i) {
    const std::string code = absl::StatusCodeToString(static_cast<absl::StatusCode>(i));
    failed_[i] =
        AddCounter(registry, kRequests, kRequestsHelp, {{"outcome", absl::AsciiStrToLower(code)}});
  }
  const std::array<const char*, 3> shed = {"buffer_full", "queue_full", "deadline"};
  for (size_t i = 0; i < shed.size(); ++i) {
    shed_[i] = AddCounter(registry, "longhaul_router_requests_shed_total",
                          "Requests turned away before they ran, by reason", {{"reason", shed[i]}});
  }
  const std::array<const char*, 2> redispatched = {"rejected", "unavailable"};
  for (size_t i = 0; i < redispatched.size(); ++i) {
    redispatched_[i] = AddCounter(registry, "longhaul_router_redispatched_total",
                                  "Executions that went back to the queue, by reason",
                                  {{"reason", redispatched[i]}});
  }
  prompt_tokens_ =
      AddCounter(registry, "longhaul_router_prompt_tokens_total", "Prompt tokens, as tokenized");
  generated_tokens_ = AddCounter(registry, "longhaul_router_generated_tokens_total",
                                 "Tokens received from workers");
  tokenize_seconds_ =
      AddHistogram(registry, "longhaul_router_tokenize_seconds",
                   "Time to render the chat template and tokenize, a request", kTokenizeBuckets);
  queue_seconds_ = AddHistogram(registry, "longhaul_router_queue_seconds",
                                "From tokenized to dispatched, an execution", kQueueBuckets);
  first_token_seconds_ =
      AddHistogram(registry, "longhaul_router_time_to_first_token_seconds",
                   "From arrival to the first token, a choice", FirstTokenBuckets());
  queue_depth_ = AddGauge(registry, "longhaul_router_queue_depth", "Executions that wait");
  live_requests_ = AddGauge(registry, "longhaul_router_live_requests",
                            "Requests that were accepted and have not ended");
  groups_ready_ = AddGauge(registry, "longhaul_router_groups_ready", "Groups that take requests");
  groups_configured_ =
      AddGauge(registry, "longhaul_router_groups_configured", "Worker addresses configured");
}

RouterMetrics::~RouterMetrics() = default;

void RouterMetrics::RequestReceived() { received_->Increment(); }

void RouterMetrics::RequestFinished(FinishReason reason) {
  finished_[static_cast<size_t>(reason)]->Increment();
}

void RouterMetrics::RequestFailed(absl::StatusCode code) {
  const auto index = static_cast<size_t>(code);
  failed_[index < failed_.size() ? index : static_cast<size_t>(absl::StatusCode::kUnknown)]
      ->Increment();
}

void RouterMetrics::RequestShed(ShedReason reason) {
  shed_[static_cast<size_t>(reason)]->Increment();
}

void RouterMetrics::Tokenized(absl::Duration duration, int64_t prompt_tokens) {
  tokenize_seconds_->Observe(absl::ToDoubleSeconds(duration));
  prompt_tokens_->Increment(static_cast<double>(prompt_tokens));
}

void RouterMetrics::QueueDepth(size_t executions) {
  queue_depth_->Set(static_cast<double>(executions));
}

void RouterMetrics::LiveRequests(size_t requests) {
  live_requests_->Set(static_cast<double>(requests));
}

void RouterMetrics::Dispatched(absl::Duration waited) {
  queue_seconds_->Observe(absl::ToDoubleSeconds(waited));
}

void RouterMetrics::Redispatched(RedispatchReason reason) {
  redispatched_[static_cast<size_t>(reason)]->Increment();
}

void RouterMetrics::FirstToken(absl::Duration since_arrival) {
  first_token_seconds_->Observe(absl::ToDoubleSeconds(since_arrival));
}

void RouterMetrics::TokensGenerated(int64_t tokens) {
  generated_tokens_->Increment(static_cast<double>(tokens));
}

void RouterMetrics::GroupsReady(int32_t ready, int32_t configured) {
  groups_ready_->Set(ready);
  groups_configured_->Set(configured);
}

}  // namespace longhaul::router
