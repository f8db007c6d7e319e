#include "worker/step_plan_wire.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace longhaul::worker {
namespace {

constexpr uint32_t kMaxId = std::numeric_limits<int32_t>::max();
constexpr int kMaxTopLogprobs = 20;
constexpr int kMaxLogitBias = 1024;
constexpr int kMaxEndTokens = 1024;

absl::Status Bad(const std::string& what) { return absl::InvalidArgumentError(what); }

// An unsigned number of the wire as our int32_t.
absl::StatusOr<int32_t> Int32(const char* field, uint32_t value) {
  if (value > kMaxId) return Bad(absl::StrCat(field, " is ", value, ", limit ", kMaxId));
  return static_cast<int32_t>(value);
}

absl::Status CheckCount(const char* field, int64_t count, int64_t limit) {
  if (count <= limit) return absl::OkStatus();
  return Bad(absl::StrCat(field, " has ", count, " entries, limit ", limit));
}

template <typename Field>
absl::StatusOr<std::vector<int32_t>> Ids(const char* field, const Field& wire, int64_t limit) {
  RETURN_IF_ERROR(CheckCount(field, wire.size(), limit));
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(wire.size()));
  for (const uint32_t value : wire) {
    ASSIGN_OR_RETURN(const int32_t id, Int32(field, value));
    ids.push_back(id);
  }
  return ids;
}

// `low` <= value <= `high`; with `above_low`, low itself is outside. A NaN is outside.
absl::Status CheckNumber(const char* field, double value, double low, double high,
                         bool above_low = false) {
  if (value <= high && (above_low ? value > low : value >= low)) return absl::OkStatus();
  return Bad(absl::StrCat(field, " is ", value, ", needed is ", above_low ? "above " : "at least ",
                          low, " and at most ", high));
}

absl::StatusOr<SequenceStart> StartFromProto(const v1::SequenceStart& proto) {
  SequenceStart start;
  start.sequence_id = proto.sequence_id();
  if (!proto.has_sampling()) return Bad("sampling is missing");
  ASSIGN_OR_RETURN(start.sampling, FromProto(proto.sampling()));
  if (proto.has_top_logprobs()) {
    ASSIGN_OR_RETURN(start.sampling.top_logprobs,
                     NumLogprobs("top_logprobs", proto.top_logprobs()));
  }
  if (proto.has_prompt_logprobs()) {
    ASSIGN_OR_RETURN(start.sampling.prompt_logprobs,
                     NumLogprobs("prompt_logprobs", proto.prompt_logprobs()));
  }
  ASSIGN_OR_RETURN(start.prompt_tokens, Int32("prompt_tokens", proto.prompt_tokens()));
  if (start.prompt_tokens == 0) return Bad("prompt_tokens is 0");
  ASSIGN_OR_RETURN(start.cached_prompt_ids,
                   Ids("cached_prompt_ids", proto.cached_prompt_ids(), start.prompt_tokens));
  ASSIGN_OR_RETURN(start.replayed_output_ids,
                   Ids("replayed_output_ids", proto.replayed_output_ids(), kMaxTokensPerUnit));
  ASSIGN_OR_RETURN(start.cached_output_tokens,
                   Int32("cached_output_tokens", proto.cached_output_tokens()));
  ASSIGN_OR_RETURN(start.end_token_ids,
                   Ids("banned_until_min_tokens", proto.banned_until_min_tokens(), kMaxEndTokens));
  ASSIGN_OR_RETURN(start.min_tokens, Int32("min_tokens", proto.min_tokens()));
  if (!proto.grammar().empty()) {
    return absl::UnimplementedError("grammar is set, structured output is not implemented");
  }
  return start;
}

absl::StatusOr<Slice> SliceFromProto(const v1::Slice& proto) {
  Slice slice;
  slice.sequence_id = proto.sequence_id();
  ASSIGN_OR_RETURN(const int32_t begin, Int32("begin", proto.begin()));
  slice.begin = begin;
  ASSIGN_OR_RETURN(slice.token_ids, Ids("token_ids", proto.token_ids(), kMaxTokensPerUnit));
  if (slice.token_ids.empty()) return Bad("token_ids is empty");
  if (slice.begin + static_cast<int64_t>(slice.token_ids.size()) > kMaxId) {
    return Bad(absl::StrCat("slice of ", slice.token_ids.size(), " tokens at ", begin,
                            " ends above ", kMaxId));
  }
  ASSIGN_OR_RETURN(slice.new_block_ids,
                   Ids("new_block_ids", proto.new_block_ids(), kMaxTokensPerUnit));
  ASSIGN_OR_RETURN(slice.first_table_entry, Int32("first_table_entry", proto.first_table_entry()));
  slice.sample = proto.sample();
  if (proto.has_next_prompt_token()) {
    ASSIGN_OR_RETURN(slice.next_prompt_token,
                     Int32("next_prompt_token", proto.next_prompt_token()));
  }
  return slice;
}

absl::StatusOr<Unit> UnitFromProto(const v1::Unit& proto) {
  Unit unit;
  unit.unit_id = proto.unit_id();
  ASSIGN_OR_RETURN(unit.layer_begin, Int32("layer_begin", proto.layer_begin()));
  ASSIGN_OR_RETURN(unit.layer_end, Int32("layer_end", proto.layer_end()));
  if (unit.layer_begin >= unit.layer_end) {
    return Bad(absl::StrCat("layers [", unit.layer_begin, ", ", unit.layer_end, ") are none"));
  }
  RETURN_IF_ERROR(CheckCount("slices", proto.slices_size(), kMaxSlicesPerUnit));
  if (proto.slices().empty()) return Bad("slices is empty");
  int64_t tokens = 0;
  for (int i = 0; i < proto.slices_size(); ++i) {
    auto slice = SliceFromProto(proto.slices(i));
    RETURN_IF_ERROR(slice) << "slices[" << i << "]";
    tokens += static_cast<int64_t>(slice->token_ids.size());
    unit.slices.push_back(*std::move(slice));
  }
  RETURN_IF_ERROR(CheckCount("the unit's token_ids together", tokens, kMaxTokensPerUnit));
  return unit;
}

v1::KvTier TierToProto(KvMove::Tier tier) {
  switch (tier) {
    case KvMove::Tier::kDevice:
      return v1::KV_TIER_DEVICE;
    case KvMove::Tier::kHost:
      return v1::KV_TIER_HOST;
    case KvMove::Tier::kDisk:
      return v1::KV_TIER_DISK;
  }
  return v1::KV_TIER_UNSPECIFIED;  // no such tier
}

absl::StatusOr<KvMove::Tier> TierFromProto(const char* field, v1::KvTier tier) {
  switch (tier) {
    case v1::KV_TIER_DEVICE:
      return KvMove::Tier::kDevice;
    case v1::KV_TIER_HOST:
      return KvMove::Tier::kHost;
    case v1::KV_TIER_DISK:
      return KvMove::Tier::kDisk;
    default:
      return Bad(absl::StrCat(field, " is tier ", static_cast<int>(tier)));
  }
}

absl::StatusOr<KvMove> MoveFromProto(const v1::KvMove& proto) {
  KvMove move;
  ASSIGN_OR_RETURN(move.from, TierFromProto("from", proto.from()));
  ASSIGN_OR_RETURN(move.to, TierFromProto("to", proto.to()));
  if (move.from == move.to) return Bad("from and to are the same tier");
  ASSIGN_OR_RETURN(move.from_index, Int32("from_index", proto.from_index()));
  ASSIGN_OR_RETURN(move.to_index, Int32("to_index", proto.to_index()));
  return move;
}

absl::StatusOr<SequencePromptLogprobs> PromptLogprobsFromProto(
    const v1::SequencePromptLogprobs& proto) {
  const v1::PromptLogprobs& wire = proto.logprobs();
  SequencePromptLogprobs part;
  part.sequence_id = proto.sequence_id();
  ASSIGN_OR_RETURN(part.begin, Int32("begin", wire.begin()));
  if (part.begin == 0) return Bad("begin is 0, but a prompt's first token has no logprob");
  RETURN_IF_ERROR(CheckCount("tokens", wire.tokens_size(), kMaxTokensPerUnit));
  if (wire.tokens().empty()) return Bad("tokens is empty");
  if (part.begin + wire.tokens_size() > int64_t{kMaxId}) {
    return Bad(absl::StrCat(wire.tokens_size(), " tokens at ", part.begin, " end above ", kMaxId));
  }
  for (const v1::GeneratedToken& token : wire.tokens()) {
    if (!token.has_logprob()) return Bad("a token without a logprob");
    ASSIGN_OR_RETURN(GeneratedToken added, FromProto(token));
    part.tokens.push_back(std::move(added));
  }
  return part;
}

}  // namespace

absl::StatusOr<int32_t> NumLogprobs(const char* field, uint32_t value) {
  RETURN_IF_ERROR(CheckNumber(field, value, 0, kMaxTopLogprobs));
  return static_cast<int32_t>(value);
}

void ToProto(const SamplingParams& params, v1::Sampling* proto) {
  proto->set_temperature(params.temperature);
  proto->set_top_p(params.top_p);
  proto->set_top_k(params.top_k);
  proto->set_min_p(params.min_p);
  proto->set_repetition_penalty(params.repetition_penalty);
  proto->set_presence_penalty(params.presence_penalty);
  proto->set_frequency_penalty(params.frequency_penalty);
  proto->set_seed(params.seed);
  for (const auto& [id, bias] : params.logit_bias) {
    (*proto->mutable_logit_bias())[static_cast<uint32_t>(id)] = bias;
  }
}

absl::StatusOr<SamplingParams> FromProto(const v1::Sampling& proto) {
  if (!proto.has_temperature() || !proto.has_top_p() || !proto.has_top_k() || !proto.has_min_p() ||
      !proto.has_repetition_penalty() || !proto.has_presence_penalty() ||
      !proto.has_frequency_penalty() || !proto.has_seed()) {
    return Bad("sampling lacks a field; on this wire every default is resolved");
  }
  RETURN_IF_ERROR(CheckNumber("temperature", proto.temperature(), 0, 2));
  RETURN_IF_ERROR(CheckNumber("top_p", proto.top_p(), 0, 1, /*above_low=*/true));
  RETURN_IF_ERROR(CheckNumber("top_k", proto.top_k(), -1, kMaxId));
  RETURN_IF_ERROR(CheckNumber("min_p", proto.min_p(), 0, 1));
  RETURN_IF_ERROR(CheckNumber("repetition_penalty", proto.repetition_penalty(), 0, 10,
                              /*above_low=*/true));
  RETURN_IF_ERROR(CheckNumber("presence_penalty", proto.presence_penalty(), -2, 2));
  RETURN_IF_ERROR(CheckNumber("frequency_penalty", proto.frequency_penalty(), -2, 2));
  RETURN_IF_ERROR(
      CheckCount("logit_bias", static_cast<int64_t>(proto.logit_bias().size()), kMaxLogitBias));
  SamplingParams params;
  params.temperature = proto.temperature();
  params.top_p = proto.top_p();
  params.top_k = std::max(0, proto.top_k());
  params.min_p = proto.min_p();
  params.repetition_penalty = proto.repetition_penalty();
  params.presence_penalty = proto.presence_penalty();
  params.frequency_penalty = proto.frequency_penalty();
  params.seed = proto.seed();
  for (const auto& [wire_id, bias] : proto.logit_bias()) {
    ASSIGN_OR_RETURN(const int32_t id, Int32("logit_bias token", wire_id));
    RETURN_IF_ERROR(CheckNumber("logit_bias", bias, -100, 100));
    params.logit_bias.emplace_back(id, bias);
  }
  std::sort(params.logit_bias.begin(), params.logit_bias.end());
  return params;
}

void ToProto(const GeneratedToken& token, v1::GeneratedToken* proto) {
  proto->set_token_id(static_cast<uint32_t>(token.token));
  if (token.logprob.has_value()) proto->set_logprob(*token.logprob);
  for (const TokenLogprob& top : token.top_logprobs) {
    v1::TokenLogprob* added = proto->add_top_logprobs();
    added->set_token_id(static_cast<uint32_t>(top.token));
    added->set_logprob(top.logprob);
  }
}

absl::StatusOr<GeneratedToken> FromProto(const v1::GeneratedToken& proto) {
  GeneratedToken token;
  ASSIGN_OR_RETURN(token.token, Int32("token_id", proto.token_id()));
  if (proto.has_logprob()) token.logprob = proto.logprob();
  RETURN_IF_ERROR(CheckCount("top_logprobs", proto.top_logprobs_size(), kMaxTopLogprobs));
  for (const v1::TokenLogprob& top : proto.top_logprobs()) {
    ASSIGN_OR_RETURN(const int32_t id, Int32("top_logprobs token_id", top.token_id()));
    token.top_logprobs.push_back({id, top.logprob()});
  }
  return token;
}

void ToProto(const StepPlan& plan, v1::StepPlan* proto) {
  const auto copy = [](const std::vector<int32_t>& ids, auto* wire) {
    wire->Assign(ids.begin(), ids.end());
  };
  proto->set_step_id(plan.step_id);
  for (const SequenceStart& start : plan.starts) {
    v1::SequenceStart* added = proto->add_starts();
    added->set_sequence_id(start.sequence_id);
    ToProto(start.sampling, added->mutable_sampling());
    added->set_prompt_tokens(static_cast<uint32_t>(start.prompt_tokens));
    if (start.sampling.top_logprobs.has_value()) {
      added->set_top_logprobs(static_cast<uint32_t>(*start.sampling.top_logprobs));
    }
    if (start.sampling.prompt_logprobs.has_value()) {
      added->set_prompt_logprobs(static_cast<uint32_t>(*start.sampling.prompt_logprobs));
    }
    copy(start.cached_prompt_ids, added->mutable_cached_prompt_ids());
    copy(start.replayed_output_ids, added->mutable_replayed_output_ids());
    added->set_cached_output_tokens(static_cast<uint32_t>(start.cached_output_tokens));
    copy(start.end_token_ids, added->mutable_banned_until_min_tokens());
    added->set_min_tokens(static_cast<uint32_t>(start.min_tokens));
  }
  for (const Unit& unit : plan.units) {
    v1::Unit* added = proto->add_units();
    added->set_unit_id(unit.unit_id);
    added->set_layer_begin(static_cast<uint32_t>(unit.layer_begin));
    added->set_layer_end(static_cast<uint32_t>(unit.layer_end));
    for (const Slice& slice : unit.slices) {
      v1::Slice* part = added->add_slices();
      part->set_sequence_id(slice.sequence_id);
      part->set_begin(static_cast<uint32_t>(slice.begin));
      copy(slice.token_ids, part->mutable_token_ids());
      copy(slice.new_block_ids, part->mutable_new_block_ids());
      part->set_sample(slice.sample);
      part->set_first_table_entry(static_cast<uint32_t>(slice.first_table_entry));
      if (slice.next_prompt_token.has_value()) {
        part->set_next_prompt_token(static_cast<uint32_t>(*slice.next_prompt_token));
      }
    }
  }
  proto->mutable_ends()->Assign(plan.ends.begin(), plan.ends.end());
  for (const KvMove& move : plan.moves) {
    v1::KvMove* added = proto->add_moves();
    added->set_from(TierToProto(move.from));
    added->set_from_index(move.from_index);
    added->set_to(TierToProto(move.to));
    added->set_to_index(move.to_index);
  }
}

absl::StatusOr<StepPlan> FromProto(const v1::StepPlan& proto) {
  StepPlan plan;
  plan.step_id = proto.step_id();
  RETURN_IF_ERROR(CheckCount("starts", proto.starts_size(), kMaxSequencesPerStep));
  RETURN_IF_ERROR(CheckCount("units", proto.units_size(), kMaxUnitsPerStep));
  RETURN_IF_ERROR(CheckCount("ends", proto.ends_size(), kMaxSequencesPerStep));
  RETURN_IF_ERROR(CheckCount("moves", proto.moves_size(), kMaxMovesPerStep));
  for (int i = 0; i < proto.starts_size(); ++i) {
    auto start = StartFromProto(proto.starts(i));
    RETURN_IF_ERROR(start) << "step " << plan.step_id << ": starts[" << i << "]";
    plan.starts.push_back(*std::move(start));
  }
  for (int i = 0; i < proto.units_size(); ++i) {
    auto unit = UnitFromProto(proto.units(i));
    RETURN_IF_ERROR(unit) << "step " << plan.step_id << ": units[" << i << "]";
    plan.units.push_back(*std::move(unit));
  }
  plan.ends.assign(proto.ends().begin(), proto.ends().end());
  for (int i = 0; i < proto.moves_size(); ++i) {
    auto move = MoveFromProto(proto.moves(i));
    RETURN_IF_ERROR(move) << "step " << plan.step_id << ": moves[" << i << "]";
    plan.moves.push_back(*std::move(move));
  }
  return plan;
}

void ToProto(const StepResult& result, v1::StepDone* proto) {
  proto->set_step_id(result.step_id);
  proto->set_seconds(result.seconds);
  for (const SampledToken& sampled : result.sampled) {
    v1::Sampled* added = proto->add_sampled();
    added->set_sequence_id(sampled.sequence_id);
    ToProto(sampled.token, added->mutable_token());
  }
  for (const SequenceError& error : result.errors) {
    v1::SequenceError* added = proto->add_errors();
    added->set_sequence_id(error.sequence_id);
    added->set_message(error.message);
  }
  for (const SequencePromptLogprobs& part : result.prompt_logprobs) {
    v1::SequencePromptLogprobs* added = proto->add_prompt_logprobs();
    added->set_sequence_id(part.sequence_id);
    added->mutable_logprobs()->set_begin(static_cast<uint32_t>(part.begin));
    for (const GeneratedToken& token : part.tokens) {
      ToProto(token, added->mutable_logprobs()->add_tokens());
    }
  }
  proto->mutable_failed_moves()->Assign(result.failed_moves.begin(), result.failed_moves.end());
}

absl::StatusOr<StepResult> FromProto(const v1::StepDone& proto) {
  StepResult result;
  result.step_id = proto.step_id();
  RETURN_IF_ERROR(CheckNumber("seconds", proto.seconds(), 0, 1e9));
  result.seconds = proto.seconds();
  RETURN_IF_ERROR(CheckCount("sampled", proto.sampled_size(), kMaxSequencesPerStep));
  RETURN_IF_ERROR(CheckCount("errors", proto.errors_size(), kMaxSequencesPerStep));
  for (const v1::Sampled& sampled : proto.sampled()) {
    auto token = FromProto(sampled.token());
    RETURN_IF_ERROR(token) << "step " << result.step_id << ": sampled";
    result.sampled.push_back({sampled.sequence_id(), *std::move(token)});
  }
  for (const v1::SequenceError& error : proto.errors()) {
    result.errors.push_back({error.sequence_id(), error.message()});
  }
  RETURN_IF_ERROR(
      CheckCount("prompt_logprobs", proto.prompt_logprobs_size(), kMaxSequencesPerStep));
  for (const v1::SequencePromptLogprobs& part : proto.prompt_logprobs()) {
    auto logprobs = PromptLogprobsFromProto(part);
    RETURN_IF_ERROR(logprobs) << "step " << result.step_id << ": prompt_logprobs of sequence "
                              << part.sequence_id();
    result.prompt_logprobs.push_back(*std::move(logprobs));
  }
  ASSIGN_OR_RETURN(result.failed_moves,
                   Ids("failed_moves", proto.failed_moves(), kMaxMovesPerStep));
  for (size_t i = 0; i < result.failed_moves.size(); ++i) {
    const int32_t move = result.failed_moves[i];
    if (move >= kMaxMovesPerStep || (i > 0 && move <= result.failed_moves[i - 1])) {
      return Bad(absl::StrCat("failed_moves[", i, "] is ", move,
                              ", needed is ascending order, limit ", kMaxMovesPerStep));
    }
  }
  return result;
}

}  // namespace longhaul::worker
