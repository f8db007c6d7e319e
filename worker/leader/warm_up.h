#pragma once

#include <cstdint>
#include <random>
#include <set>
#include <span>
#include <vector>

#include "common/cost_model.h"
#include "worker/leader/batch_scheduler.h"
#include "worker/leader/cost_fit.h"

namespace longhaul::worker::leader {

// Prompts of random tokens that a group runs before it takes requests, so that its costs are known
// from the first one on: longer and longer ones, as units of up to max_num_batched_tokens behind
// histories of up to some thousand tokens. The first unit of each length is cold (memory is
// touched, kernels are chosen) and is no sample.
//
// The prompts go through the scheduler like any other, one at a time and alone, and leave nothing
// in the prefix cache. No unit is begun that is predicted to end after `seconds` of work; the very
// first cannot be predicted, and is a block.
//
// No I/O, no clock, no locks; thread-compatible, owned by the engine core.
class WarmUp {
 public:
  // Incarnations that may be lost under it: ranks that cannot run prompts are not warmed for ever.
  static constexpr int kMaxAttempts = 3;

  struct Options {
    double seconds = 0;                  // of work, as the ranks measure it
    int32_t max_num_batched_tokens = 0;  // of a unit
    int64_t max_prompt_tokens = 0;       // a longer one is left out
    int32_t vocab_size = 0;
  };
  explicit WarmUp(const Options& options);

  // Puts a prompt in line unless one runs. False: it is over, and nothing of it is planned any
  // more. To be called before a step is planned, with the group up and without other sequences.
  bool Advance(BatchScheduler& scheduler);
  // A step of it, just retired, took so long.
  void StepDone(const PlannedStep& step, double seconds, BatchScheduler& scheduler);
  // The ranks are about to be given up: it starts again with the next ones. False: it was tried
  // often enough.
  bool GroupDown(BatchScheduler& scheduler);

  std::span<const CostSample> samples() const { return samples_; }
  double seconds() const { return spent_seconds_; }  // of work so far

 private:
  // What a unit behind `history` of a prompt with `rest` tokens left would take is known and too
  // much.
  bool WouldTakeTooLong(int64_t history, int64_t rest) const;
  void EndPrompt(BatchScheduler& scheduler);

  const Options options_;
  std::vector<int64_t> lengths_;  // of the prompts, in order
  size_t next_ = 0;               // of lengths_
  Sequence* prompt_ = nullptr;    // the one that runs
  int attempts_ = 1;

  std::mt19937 random_;     // the same tokens each time
  CostModel model_;         // of all units, to know what the next one takes
  std::set<int64_t> seen_;  // lengths of units
  std::vector<CostSample> samples_;
  double spent_seconds_ = 0;
};

}  // namespace longhaul::worker::leader
