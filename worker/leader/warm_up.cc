#include "worker/leader/warm_up.h"

#include <algorithm>

#include "common/logging.h"

namespace longhaul::worker::leader {
namespace {

// Histories behind which units are measured. The cost model tells what they cost from 4,096 tokens
// on, which is as much as a small machine has the time for.
constexpr int64_t kShortHistory = CostModel::kMinReach;
constexpr int64_t kLongHistory = 2 * kShortHistory;

}  // namespace

WarmUp::WarmUp(const Options& options) : options_(options) {
  CHECK(options.max_num_batched_tokens >= kKvBlockTokens && options.vocab_size > 0);
  // Prefill is planned in whole blocks.
  const int64_t chunk = int64_t{options.max_num_batched_tokens / kKvBlockTokens} * kKvBlockTokens;
  const int64_t half = std::max<int64_t>(chunk / 2 / kKvBlockTokens, 1) * kKvBlockTokens;
  const auto add = [this](int64_t tokens, size_t times) {
    if (tokens <= options_.max_prompt_tokens) lengths_.insert(lengths_.end(), times, tokens);
  };
  const auto whole_chunks = [chunk](int64_t tokens) {
    return (tokens + chunk - 1) / chunk * chunk;
  };
  // What matters most comes first. The last unit behind a history is shorter than a chunk: with
  // units of one length, what a token costs there could not be told from what the history costs.
  add(kKvBlockTokens, 3);
  add(whole_chunks(kShortHistory) + kKvBlockTokens, 1);
  add(chunk, 1);
  add(half, 2);
  add(whole_chunks(kLongHistory) + half, 1);
}

bool WarmUp::WouldTakeTooLong(int64_t history, int64_t rest) const {
  if (spent_seconds_ >= options_.seconds) return true;
  if (!model_.known()) return false;
  UnitShape shape;
  shape.Add(history, std::min<int64_t>(rest, options_.max_num_batched_tokens));
  return spent_seconds_ + PredictSeconds(model_.coefficients(), shape) > options_.seconds;
}

bool WarmUp::Advance(BatchScheduler& scheduler) {
  if (prompt_ != nullptr) return true;
  const int64_t room = int64_t{scheduler.pool().num_available()} * kKvBlockTokens;
  while (next_ < lengths_.size() && lengths_[next_] > room) ++next_;
  if (next_ >= lengths_.size() || WouldTakeTooLong(0, lengths_[next_])) return false;
  Request request;
  request.prompt.resize(static_cast<size_t>(lengths_[next_++]));
  std::uniform_int_distribution<TokenId> token(0, options_.vocab_size - 1);
  for (TokenId& id : request.prompt) id = token(random_);
  request.stopping.max_tokens = 0;
  request.shares_prefix = false;
  prompt_ = &scheduler.pool().Enqueue(std::move(request));
  return true;
}

void WarmUp::StepDone(const PlannedStep& step, double seconds, BatchScheduler& scheduler) {
  if (step.slices.empty()) return;  // tells the ranks of an end
  const PlannedSlice& slice = step.slices.front();
  spent_seconds_ += seconds;
  model_.Observe(step.shape, seconds);
  if (!seen_.insert(slice.count).second) samples_.push_back({step.shape, seconds});
  if (prompt_ == nullptr) return;
  const int64_t rest = prompt_->prompt_tokens() - prompt_->planned_tokens;
  if (prompt_->processed_tokens >= prompt_->prompt_tokens()) {
    EndPrompt(scheduler);
  } else if (rest > 0 && WouldTakeTooLong(prompt_->planned_tokens, rest)) {
    EndPrompt(scheduler);
    next_ = lengths_.size();
  }
}

bool WarmUp::GroupDown(BatchScheduler& scheduler) {
  if (prompt_ != nullptr) EndPrompt(scheduler);
  next_ = 0;
  spent_seconds_ = 0;
  model_ = CostModel();
  seen_.clear();
  samples_.clear();
  return attempts_++ < kMaxAttempts;
}

void WarmUp::EndPrompt(BatchScheduler& scheduler) {
  scheduler.End(*prompt_);
  prompt_ = nullptr;
}

}  // namespace longhaul::worker::leader
