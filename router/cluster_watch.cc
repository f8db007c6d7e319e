#include "router/cluster_watch.h"

#include <algorithm>
#include <utility>

#include "common/logging.h"

namespace longhaul::router {
namespace {

// The watching thread looks at the time at least so often while it expects reports...
constexpr absl::Duration kLook = absl::Seconds(1);
// ... and was held up (the process was stopped, the machine asleep) if it comes this much later.
constexpr absl::Duration kHeldUp = absl::Milliseconds(500);

}  // namespace

ClusterWatch::ClusterWatch(ClusterWatchOptions options, const WorkerChannels& channels,
                           const Clock& clock, RouterMetrics& metrics)
    : options_(std::move(options)),
      channels_(channels),
      clock_(clock),
      metrics_(metrics),
      mailbox_(options_.addresses.size() + 1),
      jitter_(options_.jitter_seed),
      view_(std::make_shared<const ClusterView>()) {
  for (const std::string& address : options_.addresses) {
    Worker& worker = workers_.emplace_back();
    worker.address = address;
  }
  metrics_.GroupsReady(0, static_cast<int32_t>(workers_.size()));
}

ClusterWatch::~ClusterWatch() { Stop(); }

void ClusterWatch::Start(std::function<void()> on_change) {
  CHECK(!thread_.joinable()) << "ClusterWatch was started already";
  on_change_ = std::move(on_change);
  thread_ = std::thread([this] { Run(); });
}

void ClusterWatch::Stop() {
  if (!thread_.joinable()) return;
  const absl::Status pushed = mailbox_.Push(Message{.worker = 0, .what = StopRequested{}});
  CHECK(pushed.ok()) << pushed;
  thread_.join();
}

std::shared_ptr<const ClusterView> ClusterWatch::view() const {
  MutexLock lock(mutex_);
  return view_;
}

int32_t ClusterWatch::num_healthy() const { return view()->num_healthy(); }

void ClusterWatch::Run() {
  const auto calling = [](const Worker& worker) { return worker.call != nullptr; };
  while (!stopping_ || std::any_of(workers_.begin(), workers_.end(), calling)) {
    // While stopping, each call still brings its end.
    const absl::Time wake = stopping_ ? absl::InfiniteFuture() : Tend(clock_.Now());
    std::optional<Message> message = mailbox_.Pop(wake);
    if (!message) continue;
    if (auto* update = std::get_if<WatchUpdate>(&message->what)) {
      Handle(message->worker, std::move(*update));
      continue;
    }
    stopping_ = true;
    for (Worker& worker : workers_) {
      if (worker.call) worker.call->Cancel();
    }
  }
}

void ClusterWatch::ForgiveLostTime(absl::Time now) {
  const absl::Duration lost = now - last_look_ - kLook;
  last_look_ = now;
  if (lost < kHeldUp) return;
  LOG(WARNING) << "event=held_up seconds=" << absl::ToDoubleSeconds(lost);
  for (Worker& worker : workers_) {
    if (worker.last_update >= now) continue;  // heard just now, or ended already
    worker.last_update = std::min(worker.last_update + lost, now);
  }
}

absl::Time ClusterWatch::Tend(absl::Time now) {
  ForgiveLostTime(now);
  absl::Time wake = absl::InfiniteFuture();
  for (size_t i = 0; i < workers_.size(); ++i) {
    Worker& worker = workers_[i];
    if (!worker.call && worker.next_attempt <= now) {
      worker.last_update = now;
      worker.call =
          WorkerWatch::Start(channels_.Get(worker.address), [this, i](WatchUpdate update) {
            const absl::Status pushed =
                mailbox_.Push(Message{.worker = i, .what = std::move(update)});
            CHECK(pushed.ok()) << pushed;  // by the bound on updates on their way
          });
    }
    if (!worker.call) {
      wake = std::min(wake, worker.next_attempt);
      continue;
    }
    // Before the Hello the connection may take its time; gRPC bounds that itself.
    if (!worker.group) continue;
    if (now - worker.last_update >= options_.stale_after) {
      LOG(WARNING) << "group=" << worker.address
                   << " event=silent seconds=" << absl::ToDoubleSeconds(now - worker.last_update);
      worker.last_update = absl::InfiniteFuture();  // said and done once; its end follows
      worker.silent = true;
      worker.call->Cancel();
      continue;
    }
    if (worker.last_update != absl::InfiniteFuture()) {
      wake = std::min({wake, worker.last_update + options_.stale_after, now + kLook});
    }
  }
  // While nothing is expected the thread may sleep as long as it likes.
  if (wake > now + kLook) last_look_ = absl::InfiniteFuture();
  return wake;
}

void ClusterWatch::Handle(size_t index, WatchUpdate update) {
  Worker& worker = workers_[index];
  if (const auto* ended = std::get_if<WatchEnded>(&update)) {
    OnEnded(worker, ended->status);
    return;
  }
  if (worker.last_update != absl::InfiniteFuture()) worker.last_update = clock_.Now();
  if (const auto* hello = std::get_if<WatchHello>(&update)) {
    OnHello(worker, *hello);
  } else if (worker.group) {
    if (const auto* load = std::get_if<GroupLoad>(&update)) OnLoad(worker, *load);
    if (const auto* delta = std::get_if<PrefixDelta>(&update)) OnDelta(worker, *delta);
  }
  worker.call->Resume();
}

void ClusterWatch::OnLoad(Worker& worker, const GroupLoad& load) {
  if (load.ready != worker.group->load.ready || load.draining != worker.group->load.draining) {
    LOG(INFO) << "group=" << worker.address << " event=load ready=" << load.ready
              << " draining=" << load.draining;
  }
  worker.group->load = load;
  Publish();
}

void ClusterWatch::OnDelta(Worker& worker, const PrefixDelta& delta) {
  if (delta.sequence != worker.prefix_sequence + 1) {
    LOG(WARNING) << "group=" << worker.address << " event=prefixes_lost sequence=" << delta.sequence
                 << " expected=" << worker.prefix_sequence + 1;
    worker.call->Cancel();  // the next Watch tells all
    return;
  }
  worker.prefix_sequence = delta.sequence;
  const PrefixSet before =
      delta.reset || worker.group->cached == nullptr ? PrefixSet() : *worker.group->cached;
  worker.group->cached =
      std::make_shared<const PrefixSet>(before.Changed(delta.added, delta.removed));
  Publish();
}

void ClusterWatch::OnHello(Worker& worker, const WatchHello& hello) {
  if (hello.protocol_version != kProtocolVersion || hello.limits.model != options_.model) {
    LOG(ERROR) << "group=" << worker.address << " event=refused model=" << hello.limits.model
               << " protocol_version=" << hello.protocol_version
               << " wanted model=" << options_.model << " protocol_version=" << kProtocolVersion;
    worker.loss_logged = true;
    worker.backoff = options_.max_backoff;
    worker.call->Cancel();
    return;
  }
  LOG(INFO) << "group=" << worker.address << " event=hello incarnation=" << hello.incarnation
            << " max_model_len=" << hello.limits.max_model_len;
  worker.group =
      Group{.address = worker.address, .incarnation = hello.incarnation, .limits = hello.limits};
  worker.prefix_sequence = 0;
  worker.backoff = absl::ZeroDuration();
  worker.silent = false;
  worker.loss_logged = false;
  Publish();
}

void ClusterWatch::OnEnded(Worker& worker, const absl::Status& status) {
  worker.call.reset();
  const bool was_in_view = worker.group.has_value();
  worker.group.reset();
  worker.backoff = std::clamp(worker.backoff * 2, options_.min_backoff, options_.max_backoff);
  // Up to a quarter more, so that many routers do not dial a returning leader at once.
  const double spread = std::uniform_real_distribution<double>(1.0, 1.25)(jitter_);
  worker.next_attempt = clock_.Now() + worker.backoff * spread;
  if (!stopping_ && (was_in_view || !worker.loss_logged)) {
    LOG(WARNING) << "group=" << worker.address << " event=lost status=" << status;
    worker.loss_logged = true;
  }
  if (was_in_view) Publish();
}

void ClusterWatch::Publish() {
  auto view = std::make_shared<ClusterView>();
  for (const Worker& worker : workers_) {
    if (worker.group) view->groups.push_back(*worker.group);
    if (worker.silent) view->silent.push_back(worker.address);
  }
  metrics_.GroupsReady(view->num_healthy(), static_cast<int32_t>(workers_.size()));
  {
    MutexLock lock(mutex_);
    view_ = std::move(view);
  }
  on_change_();
}

}  // namespace longhaul::router
