#include "worker/leader/prompt_logprobs.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace longhaul::worker::leader {
namespace {

absl::Status Bad(const std::string& what) { return absl::InvalidArgumentError(what); }

absl::Status CheckToken(const GeneratedToken& token, TokenId expected, int64_t num_top,
                        int32_t vocab_size) {
  if (token.token != expected) {
    return Bad(absl::StrCat("is token ", token.token, ", the prompt has ", expected));
  }
  if (!token.logprob.has_value() || std::isnan(*token.logprob)) return Bad("has no logprob");
  if (static_cast<int64_t>(token.top_logprobs.size()) != num_top) {
    return Bad(
        absl::StrCat("has ", token.top_logprobs.size(), " alternatives, asked for ", num_top));
  }
  for (const TokenLogprob& top : token.top_logprobs) {
    if (top.token >= 0 && top.token < vocab_size && !std::isnan(top.logprob)) continue;
    return Bad(absl::StrCat("has the alternative ", top.token, " with logprob ", top.logprob,
                            ", vocabulary ", vocab_size));
  }
  return absl::OkStatus();
}

absl::Status CheckOne(const PlannedSlice& slice, const SequencePromptLogprobs& logprobs,
                      int32_t vocab_size) {
  if (logprobs.begin != slice.begin + 1 ||
      static_cast<int64_t>(logprobs.tokens.size()) != slice.prompt_logprobs) {
    return Bad(absl::StrCat(logprobs.tokens.size(), " at ", logprobs.begin, ", asked for were ",
                            slice.prompt_logprobs, " at ", slice.begin + 1));
  }
  if (slice.sequence == nullptr) return absl::OkStatus();  // nobody will hear of them
  const Request& request = slice.sequence->request;
  const int32_t num_top = std::min(request.sampling.prompt_logprobs.value_or(0), vocab_size);
  int64_t position = logprobs.begin;
  for (const GeneratedToken& token : logprobs.tokens) {
    const TokenId expected = request.prompt[static_cast<size_t>(position)];
    RETURN_IF_ERROR(CheckToken(token, expected, num_top, vocab_size)) << "position " << position;
    ++position;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPromptLogprobs(const PlannedStep& step, const StepResult& result,
                                 int32_t vocab_size) {
  size_t found = 0;
  for (const PlannedSlice& slice : step.slices) {
    if (slice.prompt_logprobs == 0) continue;
    const auto is_its = [&slice](const auto& part) {
      return part.sequence_id == slice.sequence_id;
    };
    const auto answer = std::ranges::find_if(result.prompt_logprobs, is_its);
    if (answer != result.prompt_logprobs.end()) {
      ++found;
      RETURN_IF_ERROR(CheckOne(slice, *answer, vocab_size))
          << "step " << step.step_id << ": prompt logprobs of sequence " << slice.sequence_id;
    } else if (std::ranges::none_of(result.errors, is_its)) {
      return Bad(absl::StrCat("step ", step.step_id, " brought no prompt logprobs for sequence ",
                              slice.sequence_id));
    }
  }
  if (found == result.prompt_logprobs.size()) return absl::OkStatus();
  return Bad(absl::StrCat("step ", step.step_id, " brought prompt logprobs of ",
                          result.prompt_logprobs.size(), " sequences, asked for or not twice were ",
                          found));
}

std::vector<PromptLogprobsEvent> SplitPromptLogprobs(const SequencePromptLogprobs& logprobs,
                                                     int64_t told) {
  std::vector<PromptLogprobsEvent> events;
  const int64_t size = static_cast<int64_t>(logprobs.tokens.size());
  int64_t begin = std::max<int64_t>(0, told - logprobs.begin);
  while (begin < size) {
    const int64_t end = std::min(size, begin + kMaxPromptLogprobsPerEvent);
    events.push_back({.begin = static_cast<int32_t>(logprobs.begin + begin),
                      .tokens = {logprobs.tokens.begin() + begin, logprobs.tokens.begin() + end}});
    begin = end;
  }
  return events;
}

}  // namespace longhaul::worker::leader
