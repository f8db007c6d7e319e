#include "cli/prefill_rules.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/types.h"

namespace longhaul::cli {

absl::StatusOr<PrefillRules> PrefillRules::Make(const std::string& model_dir,
                                                const ModelConfig& model,
                                                const std::string& attention,
                                                int64_t max_chunk_tokens) {
  if (max_chunk_tokens < kKvBlockTokens) {
    return absl::InvalidArgumentError(absl::StrCat("--max-num-batched-tokens is ", max_chunk_tokens,
                                                   ", must be at least ", kKvBlockTokens));
  }
  PrefillRules rules;
  rules.cuts.max_chunk_tokens = max_chunk_tokens;
  if (attention != "sparse") return rules;
  ASSIGN_OR_RETURN(rules.sparse, planning::SparseSettings::Load(model_dir, model));
  rules.cuts.piece_tokens = rules.sparse->piece_tokens;
  rules.cuts.sparse_begin = rules.sparse->begin;
  if (max_chunk_tokens < rules.cuts.piece_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("--max-num-batched-tokens is ", max_chunk_tokens,
                                                   ", a piece of sparse attention has ",
                                                   rules.cuts.piece_tokens));
  }
  return rules;
}

}  // namespace longhaul::cli
