#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/sampling_params.h"
#include "common/types.h"

namespace longhaul::worker {

// Brings a sequence into being on the ranks of a group. Sampler state lives on the last stage only.
struct SequenceStart {
  SequenceId sequence_id = 0;
  SamplingParams sampling;
  int32_t prompt_tokens = 0;  // of the whole prompt: the length of temperature mode `request`
  // Prompt tokens that no slice will carry because their KV is cached (so none of a sequence with
  // prompt_logprobs, whose every row is needed); with the slices they make
  // the repetition penalty's bitmap.
  std::vector<TokenId> cached_prompt_ids;
  // Output sampled before a preemption: counts for the penalties and the seed counter.
  std::vector<TokenId> replayed_output_ids;
  // Of them, from the first on, how many no slice will carry because their KV is cached, too: more
  // than none only if the whole prompt's is.
  int32_t cached_output_tokens = 0;
  std::vector<TokenId> end_token_ids;  // banned while the output has fewer than min_tokens
  int32_t min_tokens = 0;
};

// Consecutive tokens of one sequence. Position p lives in entry p / kKvBlockTokens of its block
// table.
struct Slice {
  SequenceId sequence_id = 0;
  int64_t begin = 0;                   // absolute position of the first token
  std::vector<TokenId> token_ids;      // > 0 tokens
  std::vector<BlockId> new_block_ids;  // appended to the block table from first_table_entry on
  int32_t first_table_entry = 0;
  bool sample = false;  // sample a token from the last row
  // The prompt token behind this slice. Present if and only if the sequence has prompt_logprobs and
  // its prompt goes on.
  std::optional<TokenId> next_prompt_token;
};

// The smallest thing that runs without interruption: slices through layers [layer_begin,
// layer_end). A unit with layer_begin > 0 goes on with the activations that its predecessor left
// resident.
struct Unit {
  uint64_t unit_id = 0;
  int32_t layer_begin = 0;
  int32_t layer_end = 0;
  std::vector<Slice> slices;
};

// Copies one KV block between two tiers of each rank; `from` stays as it was. An index is a block
// id on the device, a slot elsewhere. The tiers differ.
struct KvMove {
  enum class Tier : uint8_t { kDevice, kHost, kDisk };
  Tier from = Tier::kDevice;
  uint32_t from_index = 0;
  Tier to = Tier::kHost;
  uint32_t to_index = 0;
};

// What a group executes next. Every rank gets the same plans in the same order and takes from each
// unit the layers that are its own. A value: the engine makes it and keeps no reference into it.
struct StepPlan {
  StepId step_id = 0;
  std::vector<KvMove> moves;          // in order, before the starts
  std::vector<SequenceStart> starts;  // before the units
  std::vector<Unit> units;            // in order
  std::vector<SequenceId> ends;       // their state is dropped after the units
};

struct SampledToken {
  SequenceId sequence_id = 0;
  GeneratedToken token;
};

// Logprobs of consecutive prompt tokens of one sequence, given those before them.
struct SequencePromptLogprobs {
  SequenceId sequence_id = 0;
  int64_t begin = 0;                   // position of tokens[0], > 0
  std::vector<GeneratedToken> tokens;  // the prompt's own, logprob present
};

// One sequence failed (NaN or Inf in its logits); the step as a whole did not.
struct SequenceError {
  SequenceId sequence_id = 0;
  std::string message;
};

struct StepResult {
  StepId step_id = 0;
  double seconds = 0;  // execution, without waiting for input; of a group: its slowest rank's
  // Of each pipeline stage, its slowest rank's. Set by the leader's group; a rank knows only its
  // own.
  std::vector<double> stage_seconds;
  std::vector<SampledToken> sampled;
  std::vector<SequenceError> errors;
  std::vector<SequencePromptLogprobs> prompt_logprobs;  // at most one a sequence
  // Indices into the plan's moves, ascending, of those that did not happen on some rank: their
  // target holds nothing that may be read.
  std::vector<int32_t> failed_moves;
};

}  // namespace longhaul::worker
