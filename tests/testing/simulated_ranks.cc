#include "tests/testing/simulated_ranks.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace longhaul::testing {
namespace {

using worker::KvMove;
using worker::Slice;
using worker::StepPlan;
using worker::StepResult;
using worker::Unit;

constexpr uint64_t kEmpty = 0;

uint64_t Extend(uint64_t hash, TokenId token) {
  hash = (hash ^ static_cast<uint64_t>(token) ^ 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;
  return (hash ^ (hash >> 29)) | 1;  // never kEmpty
}

TokenId Sample(uint64_t hash) { return static_cast<TokenId>((hash >> 20) % 1000); }

absl::Status Bad(const std::string& what) { return absl::InvalidArgumentError(what); }

}  // namespace

SimulatedRanks::SimulatedRanks(const worker::leader::KvCapacity& capacity, int32_t num_layers,
                               double failing_moves, uint32_t seed)
    : num_layers_(num_layers), failing_moves_(failing_moves), random_(seed) {
  Tier(KvMove::Tier::kDevice).resize(capacity.blocks);
  Tier(KvMove::Tier::kHost).resize(capacity.host_slots);
  Tier(KvMove::Tier::kDisk).resize(capacity.disk_slots);
  for (std::vector<Block>& tier : tiers_) {
    for (Block& block : tier) block.resize(kKvBlockTokens, kEmpty);
  }
}

std::vector<TokenId> SimulatedRanks::Answer(std::span<const TokenId> prompt, int32_t count) {
  uint64_t hash = kEmpty;
  for (const TokenId token : prompt) hash = Extend(hash, token);
  std::vector<TokenId> answer;
  for (int32_t i = 0; i < count; ++i) {
    answer.push_back(Sample(hash));
    hash = Extend(hash, answer.back());
  }
  return answer;
}

absl::StatusOr<StepResult> SimulatedRanks::Execute(const StepPlan& plan) {
  if (plan.step_id != last_step_ + 1) return Bad(absl::StrCat("step ", plan.step_id));
  last_step_ = plan.step_id;
  StepResult result;
  result.step_id = plan.step_id;
  for (size_t i = 0; i < plan.moves.size(); ++i) {
    const KvMove& move = plan.moves[i];
    if (move.from == move.to || move.from_index >= Tier(move.from).size() ||
        move.to_index >= Tier(move.to).size()) {
      return Bad(absl::StrCat("move ", i));
    }
    Block& to = Tier(move.to)[move.to_index];
    // A slot whose last store failed has no checksum.
    const bool void_slot =
        move.from != KvMove::Tier::kDevice && Tier(move.from)[move.from_index].front() == kEmpty;
    if (void_slot || std::uniform_real_distribution<double>(0, 1)(random_) < failing_moves_) {
      result.failed_moves.push_back(static_cast<int32_t>(i));
      std::ranges::fill(to, kEmpty);
      continue;
    }
    to = Tier(move.from)[move.from_index];
    if (move.to == KvMove::Tier::kDevice) ++restored_blocks_;
  }
  for (const worker::SequenceStart& start : plan.starts) RETURN_IF_ERROR(Start(start));
  for (const Unit& unit : plan.units) RETURN_IF_ERROR(Run(unit, result));
  for (const SequenceId id : plan.ends) {
    if (sequences_.erase(id) == 0) return Bad(absl::StrCat("end of unknown sequence ", id));
  }
  return result;
}

absl::Status SimulatedRanks::Start(const worker::SequenceStart& start) {
  Sequence sequence;
  sequence.tokens = start.cached_prompt_ids;
  sequence.prompt_tokens = start.prompt_tokens;
  sequence.replayed = start.replayed_output_ids;
  if (start.cached_output_tokens > static_cast<int32_t>(start.replayed_output_ids.size()) ||
      (start.cached_output_tokens > 0 &&
       static_cast<int64_t>(sequence.tokens.size()) != start.prompt_tokens)) {
    return Bad("cached output");
  }
  sequence.tokens.insert(sequence.tokens.end(), start.replayed_output_ids.begin(),
                         start.replayed_output_ids.begin() + start.cached_output_tokens);
  if (!sequences_.emplace(start.sequence_id, std::move(sequence)).second) {
    return Bad(absl::StrCat("sequence ", start.sequence_id, " started twice"));
  }
  return absl::OkStatus();
}

absl::Status SimulatedRanks::Run(const Unit& unit, StepResult& result) {
  if (unit.slices.empty() || unit.layer_begin < 0 || unit.layer_begin >= unit.layer_end ||
      unit.layer_end > num_layers_) {
    return Bad(absl::StrCat("unit ", unit.unit_id));
  }
  for (const Slice& slice : unit.slices) {
    RETURN_IF_ERROR(Advance(unit, slice)) << "sequence " << slice.sequence_id;
  }
  if (unit.layer_end < num_layers_) return absl::OkStatus();
  for (const Slice& slice : unit.slices) {
    RETURN_IF_ERROR(Compute(slice, sequences_.at(slice.sequence_id), result))
        << "sequence " << slice.sequence_id;
  }
  return absl::OkStatus();
}

absl::Status SimulatedRanks::Advance(const Unit& unit, const Slice& slice) {
  const auto found = sequences_.find(slice.sequence_id);
  if (found == sequences_.end()) return Bad("it is not running");
  Sequence& sequence = found->second;
  if (slice.token_ids.empty()) return Bad("no token");
  size_t entry = static_cast<size_t>(slice.first_table_entry);
  for (const BlockId block : slice.new_block_ids) {
    if (block < 0 || static_cast<size_t>(block) >= Tier(KvMove::Tier::kDevice).size() ||
        entry > sequence.table.size()) {
      return Bad(absl::StrCat("block ", block, " for entry ", entry));
    }
    if (entry < sequence.table.size() && sequence.table[entry] != block) return Bad("entry");
    if (entry == sequence.table.size()) sequence.table.push_back(block);
    ++entry;
  }
  const int64_t end = slice.begin + static_cast<int64_t>(slice.token_ids.size());
  if (end > static_cast<int64_t>(sequence.table.size()) * kKvBlockTokens) return Bad("table");
  if (unit.layer_begin != sequence.cut_layer) {
    return Bad(absl::StrCat("layer ", unit.layer_begin, " instead of ", sequence.cut_layer));
  }
  if (unit.layer_begin == 0) {
    if (slice.begin != static_cast<int64_t>(sequence.tokens.size())) {
      return Bad(absl::StrCat("begins at ", slice.begin, ", has ", sequence.tokens.size()));
    }
    sequence.tokens.insert(sequence.tokens.end(), slice.token_ids.begin(), slice.token_ids.end());
    sequence.cut_begin = slice.begin;
    sequence.parts = 0;
  } else if (sequence.cut_begin != slice.begin ||
             end != static_cast<int64_t>(sequence.tokens.size())) {
    return Bad("goes on with other tokens");
  }
  most_parts_ = std::max(most_parts_, ++sequence.parts);
  sequence.cut_layer = unit.layer_end < num_layers_ ? unit.layer_end : 0;
  return absl::OkStatus();
}

absl::Status SimulatedRanks::Compute(const Slice& slice, Sequence& sequence, StepResult& result) {
  std::vector<Block>& device = Tier(KvMove::Tier::kDevice);
  uint64_t hash = kEmpty;
  for (size_t position = 0; position < sequence.tokens.size(); ++position) {
    hash = Extend(hash, sequence.tokens[position]);
    uint64_t& cached = device[static_cast<size_t>(sequence.table[position / kKvBlockTokens])]
                             [position % kKvBlockTokens];
    if (static_cast<int64_t>(position) >= slice.begin) {
      cached = hash;
      ++rows_run_;
    } else if (cached != hash) {
      return Bad(absl::StrCat("the KV of position ", position, " is another's"));
    }
  }
  if (slice.sample) {
    result.sampled.push_back({slice.sequence_id, {.token = Sample(hash)}});
  }
  return absl::OkStatus();
}

}  // namespace longhaul::testing
