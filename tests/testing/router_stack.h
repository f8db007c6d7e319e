#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/logging.h"
#include "router/cluster_watch.h"
#include "router/dispatcher.h"
#include "router/intake_service.h"
#include "router/router_metrics.h"
#include "router/served_model.h"
#include "router/worker_channels.h"
#include "router/worker_client.h"
#include "tests/testing/paths.h"
#include "tests/testing/recording_sink.h"

namespace longhaul::testing {

// A router without frontends, for the demo model's tokenizer, in front of given leaders.
class RouterStack {
 public:
  struct Options {
    std::vector<std::string> workers;
    router::DispatcherOptions dispatcher;
    absl::Duration stale_after = absl::Seconds(5);
    absl::Duration max_backoff = absl::Milliseconds(200);
    int32_t max_model_len = 0;
  };

  explicit RouterStack(Options options)
      : model_(LoadModel(options.max_model_len)),
        channels_(options.workers),
        cluster_({.addresses = options.workers,
                  .model = model_.name,
                  .stale_after = options.stale_after,
                  .min_backoff = absl::Milliseconds(20),
                  .max_backoff = options.max_backoff},
                 channels_, clock_, metrics_),
        workers_(channels_, clock_),
        dispatcher_(options.dispatcher, *model_.tokenizer, cluster_, workers_, clock_, metrics_),
        intake_({.max_waiting = static_cast<size_t>(options.dispatcher.max_requests)}, model_,
                cluster_, dispatcher_, clock_, metrics_, /*seed_source=*/1) {
    cluster_.Start([this] { dispatcher_.ViewChanged(); });
  }
  // The watch calls the dispatcher, so it goes first.
  ~RouterStack() { cluster_.Stop(); }

  // False if not so many groups are ready within 10 s.
  bool WaitForGroups(int32_t count) const {
    return WaitForView(
        [count](const router::ClusterView& view) { return view.num_healthy() == count; });
  }
  bool WaitForView(const std::function<bool(const router::ClusterView&)>& condition) const {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (!condition(*cluster_.view())) {
      if (absl::Now() > deadline) return false;
      absl::SleepFor(absl::Milliseconds(2));
    }
    return true;
  }

  // Submits `request` for the model; CHECK that it is taken.
  std::shared_ptr<RecordingSink> Submit(router::GenerateRequest request) {
    auto sink = std::make_shared<RecordingSink>();
    request.model = model_.name;
    const absl::Status status = intake_.Submit(std::move(request), sink);
    CHECK(status.ok()) << status;
    return sink;
  }

  const router::ServedModel& model() const { return model_; }
  router::ClusterWatch& cluster() { return cluster_; }
  router::Dispatcher& dispatcher() { return dispatcher_; }
  router::IntakeService& intake() { return intake_; }
  router::RouterMetrics& metrics() { return metrics_; }

 private:
  static router::ServedModel LoadModel(int32_t max_model_len) {
    auto model = router::ServedModel::Load(SourcePath("models/demo"), "demo", max_model_len);
    CHECK(model.ok()) << model.status();
    return *std::move(model);
  }

  const SystemClock clock_;
  router::RouterMetrics metrics_;
  const router::ServedModel model_;
  const router::WorkerChannels channels_;
  router::ClusterWatch cluster_;
  const router::WorkerClient workers_;
  router::Dispatcher dispatcher_;
  router::IntakeService intake_;
};

}  // namespace longhaul::testing
