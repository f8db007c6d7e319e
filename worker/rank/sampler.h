#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "common/sampling_params.h"
#include "common/types.h"
#include "worker/backend/backend.h"
#include "worker/step_plan.h"
#include "worker/tensor.h"

namespace longhaul::worker::rank {

// What sampling a sequence's next token depends on besides its logits: parameters, the ids in its
// prompt and output, and how many tokens it has generated. Lives on the rank of a group that has
// the logits.
//
// Owned by the executor thread. Memory of a sequence: V / 8 bytes with a repetition penalty, 4 V
// with a presence or frequency penalty. Token ids must be within the vocabulary (the executor
// checks).
class Sampler {
 public:
  // Sees the raw logits of every row that is sampled, before sampling; for tests and evaluation.
  // `position` is that of the token whose logits they are. Costs a copy to the host.
  using LogitsObserver =
      std::function<void(SequenceId sequence, int64_t position, std::span<const float> logits)>;

  // `backend` outlives the sampler.
  Sampler(int32_t vocab_size, backend::Backend& backend);

  void set_logits_observer(LogitsObserver observer) { observer_ = std::move(observer); }

  // `start` names a sequence that is not there yet.
  void Start(const SequenceStart& start);
  // Tokens of a slice: prompt, or output that was sampled before.
  void See(SequenceId sequence, std::span<const TokenId> ids);
  void End(SequenceId sequence);

  struct Row {
    SequenceId sequence = 0;
    int64_t position = 0;
  };
  // Samples one token for each row of logits [rows, V] and adds it, or the sequence's error (a NaN
  // or Inf), to `result`. A sequence appears at most once.
  absl::Status Sample(std::span<const Row> rows, TensorView logits, StepResult& result);

 private:
  struct State {
    SamplingParams params;
    std::vector<TokenId> end_token_ids;
    uint64_t min_tokens = 0;
    uint64_t output_tokens = 0;          // generated so far, replayed ones included
    std::vector<uint64_t> seen;          // bitmap [V]; empty without a repetition penalty
    std::vector<int32_t> output_counts;  // [V]; empty without presence and frequency penalties
  };
  static void MarkSeen(State& state, std::span<const TokenId> ids);
  static void AddOutput(State& state, TokenId id);
  absl::Status Observe(std::span<const Row> rows, TensorView logits);

  const int32_t vocab_size_;
  backend::Backend& backend_;
  LogitsObserver observer_;
  std::unordered_map<SequenceId, State> states_;
};

}  // namespace longhaul::worker::rank
