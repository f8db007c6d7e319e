#include "worker/leader/warm_up.h"

#include <algorithm>

#include "common/logging.h"

namespace longhaul::worker::leader {
namespace {

// Histories behind which units are measured: the cost model tells what they cost from 4,096 tokens
// on, and a second one tells reading them from computing with them.
constexpr int64_t kHistories[] = {4096, 8192};

}  // namespace

WarmUp::WarmUp(const Options& options) : options_(options) {
  CHECK(options.max_num_batched_tokens >= kKvBlockTokens && options.vocab_size > 0);
  // Prefill is planned in whole blocks.
  const int64_t chunk = options.max_num_batched_tokens / kKvBlockTokens * kKvBlockTokens;
  const auto add_twice = [this](int64_t tokens) {
    if (tokens <= options_.max_prompt_tokens) lengths_.insert(lengths_.end(), 2, tokens);
  };
  for (int64_t tokens = kKvBlockTokens; tokens < chunk; tokens *= 4) add_twice(tokens);
  add_twice(chunk);
  // The last unit of each is shorter than a chunk: with units of one length, what a token costs
  // behind a history could not be told from what the history costs.
  int64_t last = kKvBlockTokens;
  for (const int64_t history : kHistories) {
    add_twice((history + chunk - 1) / chunk * chunk + std::min(last, chunk));
    last *= 2;
  }
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
  if (!seen_.emplace(slice.begin, slice.count).second) samples_.push_back({step.shape, seconds});
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
