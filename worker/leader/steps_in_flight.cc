#include "worker/leader/steps_in_flight.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace longhaul::worker::leader {

void StepsInFlight::Open(uint64_t incarnation, std::vector<std::shared_ptr<RankLink>> links,
                         GroupListener& listener) {
  MutexLock lock(mutex_);
  CHECK(listener_ == nullptr) << "incarnation " << incarnation << " up while " << incarnation_
                              << " is";
  listener_ = &listener;
  incarnation_ = incarnation;
  last_answers_.assign(links.size(), absl::InfinitePast());
  links_ = std::move(links);
  first_step_ = 1;
}

void StepsInFlight::Close() {
  MutexLock lock(mutex_);
  listener_ = nullptr;
  links_.clear();
  last_answers_.clear();
  steps_.clear();
}

void StepsInFlight::Send(uint64_t incarnation, StepPlan plan,
                         std::optional<double> predicted_seconds) {
  std::vector<std::shared_ptr<RankLink>> links;
  {
    MutexLock lock(mutex_);
    if (listener_ == nullptr || incarnation != incarnation_) return;
    const StepId expected = first_step_ + steps_.size();
    CHECK(plan.step_id == expected) << "step " << plan.step_id << " sent, expected " << expected;
    if (steps_.empty()) head_since_ = clock_.Now();
    steps_.push_back({.result = {.step_id = plan.step_id,
                                 .stage_seconds = std::vector<double>(
                                     static_cast<size_t>(shape_.pipeline_parallel_size()))},
                      .acknowledged = std::vector<bool>(links_.size(), false),
                      .predicted_seconds = predicted_seconds});
    links = links_;
  }
  // Without the lock: a long prompt takes milliseconds. A link that was closed meanwhile drops it.
  for (const std::shared_ptr<RankLink>& link : links) link->SendPlan(plan);
}

absl::Status StepsInFlight::Acknowledge(const RankLink& link, StepResult result) {
  MutexLock lock(mutex_);
  const auto found =
      std::ranges::find_if(links_, [&link](const auto& open) { return open.get() == &link; });
  if (found == links_.end() || result.step_id < first_step_ ||
      result.step_id >= first_step_ + steps_.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("it reports step ", result.step_id, " as done, which is not in flight"));
  }
  const auto rank = static_cast<size_t>(found - links_.begin());
  Step& step = steps_[result.step_id - first_step_];
  if (step.acknowledged[rank]) {
    return absl::FailedPreconditionError(
        absl::StrCat("it reports step ", result.step_id, " as done twice"));
  }
  const absl::Time now = clock_.Now();
  last_answers_[rank] = now;
  Merge(rank, std::move(result), step);
  while (!steps_.empty() && std::ranges::find(steps_.front().acknowledged, false) ==
                                steps_.front().acknowledged.end()) {
    listener_->OnStepDone(incarnation_, std::move(steps_.front().result));
    steps_.pop_front();
    ++first_step_;
    head_since_ = now;
  }
  return absl::OkStatus();
}

void StepsInFlight::Merge(size_t rank, StepResult result, Step& step) {
  step.acknowledged[rank] = true;
  StepResult& merged = step.result;
  merged.seconds = std::max(merged.seconds, result.seconds);
  double& stage_seconds =
      merged.stage_seconds[static_cast<size_t>(shape_.StageOf(static_cast<int32_t>(rank)))];
  stage_seconds = std::max(stage_seconds, result.seconds);
  std::ranges::move(result.sampled, std::back_inserter(merged.sampled));
  std::ranges::move(result.errors, std::back_inserter(merged.errors));
  std::ranges::move(result.prompt_logprobs, std::back_inserter(merged.prompt_logprobs));
  std::vector<int32_t> failed;  // of one rank or more
  std::ranges::set_union(merged.failed_moves, result.failed_moves, std::back_inserter(failed));
  merged.failed_moves = std::move(failed);
}

size_t StepsInFlight::size() const {
  MutexLock lock(mutex_);
  return steps_.size();
}

std::optional<StepsInFlight::Head> StepsInFlight::head() const {
  MutexLock lock(mutex_);
  if (steps_.empty()) return std::nullopt;
  return Head{.step_id = first_step_,
              .since = head_since_,
              .predicted_seconds = steps_.front().predicted_seconds,
              .acknowledged = steps_.front().acknowledged};
}

absl::Time StepsInFlight::last_answer(int32_t rank) const {
  MutexLock lock(mutex_);
  const auto index = static_cast<size_t>(rank);
  return index < last_answers_.size() ? last_answers_[index] : absl::InfinitePast();
}

void StepsInFlight::Forgive(absl::Duration lost, absl::Time now) {
  MutexLock lock(mutex_);
  head_since_ = std::min(head_since_ + lost, now);
}

}  // namespace longhaul::worker::leader
