#include "worker/rank/prompt_scorer.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace longhaul::worker::rank {
namespace {

// A row of the unit and where its token belongs.
struct Row {
  int64_t row = 0;
  size_t part = 0;
  TokenId next_token = 0;
};

bool HasError(const StepResult& result, SequenceId sequence) {
  return std::ranges::any_of(result.errors, [sequence](const SequenceError& error) {
    return error.sequence_id == sequence;
  });
}

// A step may have several units of a sequence, one after the other.
void Add(SequencePromptLogprobs scored, StepResult& result) {
  const auto before =
      std::ranges::find(result.prompt_logprobs, scored.sequence_id,
                        [](const SequencePromptLogprobs& part) { return part.sequence_id; });
  if (before == result.prompt_logprobs.end()) {
    result.prompt_logprobs.push_back(std::move(scored));
    return;
  }
  CHECK(before->begin + static_cast<int64_t>(before->tokens.size()) == scored.begin)
      << "sequence=" << scored.sequence_id << " begin=" << scored.begin;
  std::ranges::move(scored.tokens, std::back_inserter(before->tokens));
}

}  // namespace

PromptScorer::PromptScorer(PipelineStage& stage, backend::Backend& backend,
                           int64_t max_logits_bytes)
    : stage_(stage),
      backend_(backend),
      rows_per_tile_(std::max<int64_t>(
          1, max_logits_bytes / (int64_t{stage.config().vocab_size} * sizeof(float)))) {
  CHECK(stage.is_last()) << "logits are the last stage's";
}

absl::Status PromptScorer::Score(std::span<const Part> parts, const std::atomic<bool>& stop,
                                 StepResult& result) {
  std::vector<Row> rows;
  std::vector<SequencePromptLogprobs> scored(parts.size());
  for (size_t p = 0; p < parts.size(); ++p) {
    const Part& part = parts[p];
    CHECK(part.position_begin > 0 && !part.next_tokens.empty()) << "sequence=" << part.sequence;
    scored[p] = {.sequence_id = part.sequence, .begin = part.position_begin, .tokens = {}};
    for (size_t i = 0; i < part.next_tokens.size(); ++i) {
      rows.push_back({.row = part.row_begin + static_cast<int64_t>(i),
                      .part = p,
                      .next_token = part.next_tokens[i]});
    }
  }
  std::vector<int64_t> tile_rows;
  std::vector<backend::LogprobsRow> tile;
  for (size_t begin = 0; begin < rows.size(); begin += tile_rows.size()) {
    if (stop.load(std::memory_order_relaxed)) return absl::CancelledError("rank stops");
    tile_rows.clear();
    tile.clear();
    const size_t end = std::min(rows.size(), begin + static_cast<size_t>(rows_per_tile_));
    for (size_t i = begin; i < end; ++i) tile_rows.push_back(rows[i].row);
    ASSIGN_OR_RETURN(const TensorView logits, stage_.Logits(tile_rows));
    if (!stage_.has_logits()) continue;
    for (size_t i = begin; i < end; ++i) {
      tile.push_back({.logits = logits.Rows(static_cast<int64_t>(i - begin), 1),
                      .token = rows[i].next_token,
                      .num_top = parts[rows[i].part].num_top});
    }
    std::vector<absl::StatusOr<GeneratedToken>> tokens = backend_.Logprobs(tile);
    for (size_t i = 0; i < tokens.size(); ++i) {
      SequencePromptLogprobs& sequence = scored[rows[begin + i].part];
      if (tokens[i].ok()) {
        sequence.tokens.push_back(*std::move(tokens[i]));
      } else if (!HasError(result, sequence.sequence_id)) {
        result.errors.push_back({sequence.sequence_id, std::string(tokens[i].status().message())});
      }
    }
  }
  if (!stage_.has_logits()) return absl::OkStatus();
  for (SequencePromptLogprobs& sequence : scored) {
    if (!HasError(result, sequence.sequence_id)) Add(std::move(sequence), result);
  }
  return absl::OkStatus();
}

}  // namespace longhaul::worker::rank
