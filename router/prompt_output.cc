#include "router/prompt_output.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace longhaul::router {

PromptOutput::PromptOutput(const text::Tokenizer& tokenizer, const std::vector<TokenId>& prompt,
                           PromptReport report, int32_t choice)
    : prompt_(prompt),
      report_(report),
      choice_(choice),
      detokenizer_(tokenizer, /*skip_special=*/false) {
  CHECK(!prompt.empty());
}

PromptEvent PromptOutput::Tell(std::vector<GeneratedToken> tokens) {
  PromptEvent event{.choice = choice_, .begin = static_cast<int32_t>(num_told_)};
  num_told_ += tokens.size();
  if (report_.text) {
    for (const GeneratedToken& token : tokens) event.text += detokenizer_.Push(token.token);
    if (num_told_ == prompt_.size()) event.text += detokenizer_.Flush();
  }
  event.tokens = std::move(tokens);
  return event;
}

absl::StatusOr<std::optional<PromptEvent>> PromptOutput::Push(int32_t begin,
                                                              std::vector<GeneratedToken> tokens) {
  const auto position = static_cast<size_t>(begin);
  const size_t end = position + tokens.size();
  // The first token is told by us, with what follows it.
  if (!report_.logprobs || begin < 1 || position > std::max<size_t>(num_told_, 1) ||
      end > prompt_.size()) {
    return absl::InternalError(absl::StrCat("the worker gave logprobs of prompt tokens [", begin,
                                            ", ", end, ") of ", prompt_.size(), ", ", num_told_,
                                            " were told"));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i].token == prompt_[position + i] && tokens[i].logprob) continue;
    return absl::InternalError(absl::StrCat("the worker gave prompt position ", position + i,
                                            " token ", tokens[i].token, ", the prompt has ",
                                            prompt_[position + i]));
  }
  if (end <= num_told_) return std::nullopt;
  if (num_told_ == 0) {
    tokens.insert(tokens.begin(), GeneratedToken{.token = prompt_[0]});
  } else {
    tokens.erase(tokens.begin(), tokens.begin() + static_cast<int64_t>(num_told_ - position));
  }
  return Tell(std::move(tokens));
}

absl::StatusOr<std::optional<PromptEvent>> PromptOutput::Finish(const std::string& text) {
  if (std::exchange(finished_, true)) return std::nullopt;
  if (!report_.logprobs) {
    if (!report_.text) return std::nullopt;
    return PromptEvent{.choice = choice_, .text = text};
  }
  if (num_told_ == 0 && prompt_.size() == 1) return Tell({GeneratedToken{.token = prompt_[0]}});
  if (num_told_ == prompt_.size()) return std::nullopt;
  return absl::InternalError(absl::StrCat("the worker generated with the logprobs of ", num_told_,
                                          " of ", prompt_.size(), " prompt tokens told"));
}

}  // namespace longhaul::router
