#include "router/tokenize_pool.h"

#include <utility>

#include "common/prefix_hash.h"

namespace longhaul::router {

TokenizePool::TokenizePool(size_t capacity, const ServedModel& model, const Clock& clock,
                           RouterMetrics& metrics, uint64_t seed_source, OnPrepared on_prepared)
    : model_(model),
      clock_(clock),
      metrics_(metrics),
      on_prepared_(std::move(on_prepared)),
      short_lane_(capacity, seed_source),
      long_lane_(capacity, ~seed_source) {
  for (Lane* lane : {&short_lane_, &long_lane_}) {
    lane->thread = std::thread([this, lane] { Run(*lane); });
  }
}

TokenizePool::~TokenizePool() {
  stopping_.store(true);
  for (Lane* lane : {&short_lane_, &long_lane_}) {
    lane->jobs.Close();
    lane->thread.join();
  }
}

absl::Status TokenizePool::Submit(TokenizeJob job) {
  Lane& lane = job.prompt_bytes > kLongPromptBytes ? long_lane_ : short_lane_;
  return lane.jobs.Push(std::move(job));
}

void TokenizePool::Run(Lane& lane) {
  while (std::optional<TokenizeJob> job = lane.jobs.Pop(absl::InfiniteFuture())) {
    if (stopping_.load() || job->abandoned->load()) continue;
    const RequestId id = job->request.id;
    const absl::Time begin = clock_.Now();
    absl::StatusOr<PreparedRequest> prepared =
        PrepareRequest(std::move(job->request), model_, job->limits, lane.seeds());
    if (prepared.ok()) {
      metrics_.Tokenized(clock_.Now() - begin, static_cast<int64_t>(prepared->prompt->size()));
      if (!prepared->sampling.prompt_logprobs) {
        for (const Digest& root : job->prefix_roots) {
          prepared->prefixes.push_back(
              {.root = root, .chain = PrefixChain(root, *prepared->prompt)});
        }
      }
    }
    on_prepared_(id, std::move(prepared));
  }
}

}  // namespace longhaul::router
