#include "worker/rank/executor.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace longhaul::worker::rank {
namespace {

absl::Status Bad(const std::string& what) { return absl::InvalidArgumentError(what); }

// The prompt tokens that follow the rows of a slice.
std::vector<TokenId> NextPromptTokens(const Slice& slice, int64_t prompt_tokens) {
  const int64_t known =
      std::min<int64_t>(static_cast<int64_t>(slice.token_ids.size()), prompt_tokens - slice.begin);
  if (known <= 0) return {};  // output
  std::vector<TokenId> next(slice.token_ids.begin() + 1, slice.token_ids.begin() + known);
  if (slice.next_prompt_token.has_value()) next.push_back(*slice.next_prompt_token);
  return next;
}

}  // namespace

Executor::Executor(PipelineStage& stage, Sampler* sampler, PromptScorer* scorer, const Clock& clock,
                   KvMover* mover)
    : stage_(stage), sampler_(sampler), scorer_(scorer), clock_(clock), mover_(mover) {
  CHECK((sampler_ != nullptr) == stage_.has_logits()) << "who has the logits samples";
  CHECK((scorer_ != nullptr) == stage_.is_last()) << "the last stage scores";
}

absl::StatusOr<StepResult> Executor::Execute(const StepPlan& plan, const std::atomic<bool>& stop) {
  const absl::Time begin = clock_.Now();
  if (plan.step_id != last_step_ + 1) {
    return Bad(absl::StrCat("step ", plan.step_id, " came after step ", last_step_));
  }
  last_step_ = plan.step_id;
  StepResult result;
  result.step_id = plan.step_id;
  if (!plan.moves.empty()) {
    if (mover_ == nullptr) return Bad(absl::StrCat("step ", plan.step_id, " moves KV blocks"));
    auto failed = mover_->Run(plan.moves, stop);
    RETURN_IF_ERROR(failed) << "step " << plan.step_id;
    result.failed_moves = *std::move(failed);
  }
  for (const SequenceStart& start : plan.starts) {
    RETURN_IF_ERROR(Start(start)) << "step " << plan.step_id << ": start of sequence "
                                  << start.sequence_id;
  }
  for (const Unit& unit : plan.units) {
    RETURN_IF_ERROR(Run(unit, stop, result))
        << "step " << plan.step_id << ": unit " << unit.unit_id;
  }
  for (const SequenceId id : plan.ends) {
    if (sequences_.erase(id) == 0) {
      return Bad(absl::StrCat("step ", plan.step_id, ": end of unknown sequence ", id));
    }
    stage_.Drop(id);
    if (sampler_ != nullptr) sampler_->End(id);
  }
  // The leader shares blocks that a result reports, and learns what steps take.
  auto waited = stage_.Finish();
  RETURN_IF_ERROR(waited) << "step " << plan.step_id;
  // What a stage waits for the others is not its time.
  result.seconds = std::max(0.0, absl::ToDoubleSeconds(clock_.Now() - begin - *waited));
  return result;
}

absl::Status Executor::Start(const SequenceStart& start) {
  if (sequences_.contains(start.sequence_id)) return Bad("it is running already");
  if (start.prompt_tokens < 1 ||
      static_cast<size_t>(start.prompt_tokens) < start.cached_prompt_ids.size()) {
    return Bad(absl::StrCat("prompt of ", start.prompt_tokens, " tokens, ",
                            start.cached_prompt_ids.size(), " of them cached"));
  }
  const auto cached_prompt = static_cast<int32_t>(start.cached_prompt_ids.size());
  if (start.cached_output_tokens < 0 ||
      static_cast<size_t>(start.cached_output_tokens) > start.replayed_output_ids.size() ||
      (start.cached_output_tokens > 0 && cached_prompt < start.prompt_tokens)) {
    return Bad(absl::StrCat("cached_output_tokens is ", start.cached_output_tokens, " of ",
                            start.replayed_output_ids.size(), " replayed ones behind ",
                            cached_prompt, " cached of ", start.prompt_tokens, " prompt tokens"));
  }
  RETURN_IF_ERROR(CheckTokens("cached_prompt_ids", start.cached_prompt_ids));
  RETURN_IF_ERROR(CheckTokens("replayed_output_ids", start.replayed_output_ids));
  RETURN_IF_ERROR(CheckTokens("end_token_ids", start.end_token_ids));
  if (start.sampling.prompt_logprobs.has_value() && !start.cached_prompt_ids.empty()) {
    return Bad(absl::StrCat("prompt_logprobs with ", start.cached_prompt_ids.size(),
                            " cached prompt tokens, which no slice will carry"));
  }
  for (const auto& [id, bias] : start.sampling.logit_bias) {
    RETURN_IF_ERROR(CheckTokens("logit_bias", {id}));
  }
  Sequence sequence;
  sequence.prompt_tokens = start.prompt_tokens;
  sequence.prompt_logprobs = start.sampling.prompt_logprobs;
  sequence.num_tokens = cached_prompt + start.cached_output_tokens;
  sequences_.emplace(start.sequence_id, std::move(sequence));
  if (sampler_ != nullptr) sampler_->Start(start);
  return absl::OkStatus();
}

absl::Status Executor::Run(const Unit& unit, const std::atomic<bool>& stop, StepResult& result) {
  const int32_t num_layers = stage_.config().num_layers;
  if (unit.layer_begin < 0 || unit.layer_begin >= unit.layer_end || unit.layer_end > num_layers ||
      unit.slices.empty()) {
    return Bad(absl::StrCat(unit.slices.size(), " slices through layers [", unit.layer_begin, ", ",
                            unit.layer_end, ") of ", num_layers));
  }
  ++num_units_;
  for (const Slice& slice : unit.slices) {
    RETURN_IF_ERROR(Advance(unit, slice)) << "sequence " << slice.sequence_id;
  }
  // Only now: tables no longer move.
  std::vector<SequenceId> ids;
  std::vector<model::ModelSlice> slices;
  std::vector<int64_t> sampled_rows;
  std::vector<Sampler::Row> samples;
  std::vector<PromptScorer::Part> scored_parts;
  int64_t rows = 0;
  for (const Slice& slice : unit.slices) {
    const Sequence& sequence = sequences_.find(slice.sequence_id)->second;
    ids.push_back(slice.sequence_id);
    slices.push_back({.position_begin = slice.begin,
                      .token_ids = slice.token_ids,
                      .prompt_tokens = sequence.prompt_tokens,
                      .block_table = sequence.block_table});
    if (sequence.prompt_logprobs.has_value()) {
      std::vector<TokenId> next = NextPromptTokens(slice, sequence.prompt_tokens);
      if (!next.empty()) {
        scored_parts.push_back({.sequence = slice.sequence_id,
                                .row_begin = rows,
                                .position_begin = slice.begin + 1,
                                .next_tokens = std::move(next),
                                .num_top = *sequence.prompt_logprobs});
      }
    }
    rows += static_cast<int64_t>(slice.token_ids.size());
    if (slice.sample) {
      sampled_rows.push_back(rows - 1);
      samples.push_back({slice.sequence_id, sequence.num_tokens - 1});
    }
  }
  RETURN_IF_ERROR(stage_.Run({.layer_begin = unit.layer_begin,
                              .layer_end = unit.layer_end,
                              .sequences = ids,
                              .slices = slices},
                             stop));
  if (unit.layer_end < num_layers || !stage_.is_last()) return absl::OkStatus();
  if (!samples.empty()) {
    ASSIGN_OR_RETURN(const TensorView logits, stage_.Logits(sampled_rows));
    if (sampler_ != nullptr) {
      RETURN_IF_ERROR(sampler_->Sample(samples, logits, result));
    }
  }
  if (scored_parts.empty()) return absl::OkStatus();
  return scorer_->Score(scored_parts, stop, result);
}

absl::Status Executor::Advance(const Unit& unit, const Slice& slice) {
  const auto found = sequences_.find(slice.sequence_id);
  if (found == sequences_.end()) return Bad("it is not running");
  Sequence& sequence = found->second;
  if (std::exchange(sequence.last_unit, num_units_) == num_units_) {
    return Bad("the unit has two slices of it");
  }
  const int64_t count = static_cast<int64_t>(slice.token_ids.size());
  const int64_t end = slice.begin + count;
  if (count < 1 || end > stage_.config().max_position_embeddings) {
    return Bad(absl::StrCat("slice of ", count, " tokens ends at ", end, ", model limit ",
                            stage_.config().max_position_embeddings));
  }
  RETURN_IF_ERROR(CheckTokens("token_ids", slice.token_ids));
  RETURN_IF_ERROR(CheckNextPromptToken(slice, sequence));
  RETURN_IF_ERROR(AppendBlocks(slice, sequence));
  if (end > static_cast<int64_t>(sequence.block_table.size()) * kKvBlockTokens) {
    return Bad(absl::StrCat("slice ends at ", end, ", but the sequence has ",
                            sequence.block_table.size(), " blocks of ", kKvBlockTokens));
  }
  if (unit.layer_begin == 0) {
    if (sequence.cut_layer != 0) {
      return Bad(absl::StrCat("a unit of it waits at layer ", sequence.cut_layer));
    }
    if (slice.begin != sequence.num_tokens) {
      return Bad(absl::StrCat("slice begins at ", slice.begin, ", the sequence has ",
                              sequence.num_tokens, " tokens"));
    }
    sequence.num_tokens = end;
    sequence.cut_begin = slice.begin;
    if (sampler_ != nullptr) sampler_->See(slice.sequence_id, slice.token_ids);
  } else if (sequence.cut_layer != unit.layer_begin || sequence.cut_begin != slice.begin ||
             sequence.num_tokens != end) {
    return Bad(absl::StrCat("unit goes on at layer ", unit.layer_begin, " with tokens [",
                            slice.begin, ", ", end, "), waiting at layer ", sequence.cut_layer,
                            " are [", sequence.cut_begin, ", ", sequence.num_tokens, ")"));
  }
  sequence.cut_layer = unit.layer_end < stage_.config().num_layers ? unit.layer_end : 0;
  return absl::OkStatus();
}

absl::Status Executor::CheckNextPromptToken(const Slice& slice, const Sequence& sequence) const {
  const int64_t end = slice.begin + static_cast<int64_t>(slice.token_ids.size());
  const bool needed = sequence.prompt_logprobs.has_value() && end < sequence.prompt_tokens;
  if (slice.next_prompt_token.has_value() != needed) {
    return Bad(absl::StrCat("slice ends at ", end, " of a prompt of ", sequence.prompt_tokens,
                            " tokens with", sequence.prompt_logprobs ? "" : "out",
                            " prompt_logprobs; next_prompt_token is ",
                            needed ? "missing" : "one too many"));
  }
  return needed ? CheckTokens("next_prompt_token", {*slice.next_prompt_token}) : absl::OkStatus();
}

absl::Status Executor::AppendBlocks(const Slice& slice, Sequence& sequence) const {
  std::vector<BlockId>& table = sequence.block_table;
  for (size_t i = 0; i < slice.new_block_ids.size(); ++i) {
    const BlockId block = slice.new_block_ids[i];
    const size_t entry = static_cast<size_t>(slice.first_table_entry) + i;
    if (block < 0 || block >= stage_.cache().num_blocks()) {
      return Bad(absl::StrCat("block ", block, " of ", stage_.cache().num_blocks()));
    }
    if (slice.first_table_entry < 0 || entry > table.size() ||
        (entry < table.size() && table[entry] != block)) {
      return Bad(absl::StrCat("block ", block, " for table entry ", entry, ", the table has ",
                              table.size(), " entries"));
    }
    // A unit that goes on may repeat the blocks it began with.
    if (entry == table.size()) table.push_back(block);
  }
  return absl::OkStatus();
}

absl::Status Executor::CheckTokens(const char* what, const std::vector<TokenId>& ids) const {
  const int32_t vocab_size = stage_.config().vocab_size;
  for (const TokenId id : ids) {
    if (id < 0 || id >= vocab_size) {
      return Bad(absl::StrCat(what, " holds token ", id, ", the vocabulary has ", vocab_size));
    }
  }
  return absl::OkStatus();
}

}  // namespace longhaul::worker::rank
