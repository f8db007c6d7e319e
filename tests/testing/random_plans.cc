#include "tests/testing/random_plans.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "common/logging.h"
#include "worker/rank/pipeline_stage.h"

namespace longhaul::testing {
namespace {

using worker::SequenceStart;
using worker::Slice;
using worker::StepPlan;
using worker::Unit;

int64_t Blocks(int64_t tokens) { return (tokens + kKvBlockTokens - 1) / kKvBlockTokens; }

SequenceStart StartOf(const KnownSequence& sequence) {
  return {.sequence_id = sequence.id,
          .sampling = {.temperature = 0, .prompt_logprobs = sequence.prompt_logprobs},
          .prompt_tokens = sequence.prompt_tokens};
}

// Tokens [begin, end), with the blocks of `table` that they are the first to need.
Slice SliceOf(const KnownSequence& sequence, int64_t begin, int64_t end,
              const std::vector<BlockId>& table) {
  Slice slice{.sequence_id = sequence.id,
              .begin = begin,
              .token_ids = {sequence.tokens.begin() + begin, sequence.tokens.begin() + end},
              .new_block_ids = {table.begin() + Blocks(begin), table.begin() + Blocks(end)},
              .first_table_entry = static_cast<int32_t>(Blocks(begin)),
              .sample = end >= sequence.prompt_tokens};
  if (sequence.prompt_logprobs.has_value() && end < sequence.prompt_tokens) {
    slice.next_prompt_token = sequence.tokens[static_cast<size_t>(end)];
  }
  return slice;
}

class Shuffler {
 public:
  Shuffler(const std::vector<KnownSequence>& sequences, int32_t num_layers, int32_t num_blocks,
           std::mt19937_64& random)
      : num_layers_(num_layers), free_blocks_(static_cast<size_t>(num_blocks)), random_(random) {
    std::iota(free_blocks_.begin(), free_blocks_.end(), 0);
    std::ranges::shuffle(free_blocks_, random_);
    for (const KnownSequence& sequence : sequences) states_.push_back({.known = &sequence});
  }

  bool IsDone() const {
    return std::ranges::all_of(states_, [](const State& state) { return state.ended; });
  }

  StepPlan Next(StepId step) {
    plan_ = {.step_id = step};
    for (int64_t unit = Uniform(1, 3); unit > 0; --unit) AddUnit(plan_);
    for (State& state : states_) {
      const bool done = state.next == static_cast<int64_t>(state.known->tokens.size());
      if (!done || state.ended || state.is_cut || Uniform(0, 2) == 0) continue;
      state.ended = true;
      plan_.ends.push_back(state.known->id);
      std::ranges::copy(state.table, std::back_inserter(free_blocks_));
      std::ranges::shuffle(free_blocks_, random_);
    }
    return std::move(plan_);
  }

 private:
  struct State {
    const KnownSequence* known = nullptr;
    bool started = false;
    bool is_cut = false;  // in a cut unit
    bool ended = false;
    int64_t next = 0;  // position
    std::vector<BlockId> table;
  };

  int64_t Uniform(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

  void AddUnit(StepPlan& plan) {
    const bool full = cut_.size() == worker::rank::PipelineStage::kMaxResident;
    std::vector<State*> ready = full ? std::vector<State*>{} : Ready();
    Unit unit;
    if (!cut_.empty() && (ready.empty() || Uniform(0, 1) == 0)) {
      const size_t which = static_cast<size_t>(Uniform(0, static_cast<int64_t>(cut_.size()) - 1));
      unit = std::move(cut_[which]);
      cut_.erase(cut_.begin() + static_cast<std::ptrdiff_t>(which));
      unit.layer_begin = unit.layer_end;
    } else if (!ready.empty()) {
      std::ranges::shuffle(ready, random_);
      ready.resize(static_cast<size_t>(Uniform(1, static_cast<int64_t>(ready.size()))));
      for (State* state : ready) unit.slices.push_back(NextSlice(*state));
    } else {
      return;
    }
    unit.unit_id = ++num_units_;
    unit.layer_end = num_layers_;
    if (unit.layer_begin + 1 < num_layers_ && Uniform(0, 1) == 0) {
      unit.layer_end = static_cast<int32_t>(Uniform(unit.layer_begin + 1, num_layers_ - 1));
      cut_.push_back(unit);
    }
    for (State& state : states_) {
      if (std::ranges::find(unit.slices, state.known->id, &Slice::sequence_id) !=
          unit.slices.end()) {
        state.is_cut = unit.layer_end < num_layers_;
      }
    }
    plan.units.push_back(std::move(unit));
  }

  // Sequences that may be given a slice; starts those that have room now.
  std::vector<State*> Ready() {
    std::vector<State*> ready;
    for (State& state : states_) {
      const int64_t tokens = static_cast<int64_t>(state.known->tokens.size());
      if (state.ended || state.is_cut || state.next == tokens) continue;
      if (!state.started) {
        const size_t needed = static_cast<size_t>(Blocks(tokens));
        if (free_blocks_.size() < needed) continue;
        state.table.assign(free_blocks_.end() - static_cast<std::ptrdiff_t>(needed),
                           free_blocks_.end());
        free_blocks_.resize(free_blocks_.size() - needed);
        state.started = true;
        plan_.starts.push_back(StartOf(*state.known));
      }
      ready.push_back(&state);
    }
    return ready;
  }

  Slice NextSlice(State& state) {
    const int64_t rest = state.known->prompt_tokens - state.next;
    int64_t count = 1;  // of output
    if (rest > 0) {
      const std::array<int64_t, 8> choices = {1, 255, 256, 257, 512, Uniform(1, rest), rest, rest};
      count = std::min(rest, choices[static_cast<size_t>(Uniform(0, 7))]);
    }
    const int64_t begin = std::exchange(state.next, state.next + count);
    return SliceOf(*state.known, begin, state.next, state.table);
  }

  const int32_t num_layers_;
  std::vector<State> states_;
  std::vector<BlockId> free_blocks_;
  std::vector<Unit> cut_;  // layer_end is where it goes on
  uint64_t num_units_ = 0;
  StepPlan plan_;  // being made
  std::mt19937_64& random_;
};

}  // namespace

std::vector<StepPlan> RandomPlans(const std::vector<KnownSequence>& sequences, int32_t num_layers,
                                  int32_t num_blocks, StepId first_step, std::mt19937_64& random) {
  for (const KnownSequence& sequence : sequences) {
    CHECK(Blocks(static_cast<int64_t>(sequence.tokens.size())) <= num_blocks) << sequence.id;
  }
  Shuffler shuffler(sequences, num_layers, num_blocks, random);
  std::vector<StepPlan> plans;
  while (!shuffler.IsDone()) plans.push_back(shuffler.Next(first_step + plans.size()));
  return plans;
}

std::vector<StepPlan> PlainPlans(const std::vector<KnownSequence>& sequences, int32_t num_layers,
                                 StepId first_step) {
  std::vector<StepPlan> plans;
  for (const KnownSequence& sequence : sequences) {
    const int64_t tokens = static_cast<int64_t>(sequence.tokens.size());
    std::vector<BlockId> table(static_cast<size_t>(Blocks(tokens)));
    std::iota(table.begin(), table.end(), 0);
    int64_t begin = 0;
    for (int64_t end = sequence.prompt_tokens; end <= tokens; ++end) {
      StepPlan plan{.step_id = first_step + plans.size()};
      if (begin == 0) plan.starts.push_back(StartOf(sequence));
      plan.units.push_back(
          {.layer_end = num_layers, .slices = {SliceOf(sequence, begin, end, table)}});
      if (end == tokens) plan.ends.push_back(sequence.id);
      plans.push_back(std::move(plan));
      begin = end;
    }
  }
  return plans;
}

}  // namespace longhaul::testing
