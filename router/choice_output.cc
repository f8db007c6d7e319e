#include "router/choice_output.h"

#include <utility>

namespace longhaul::router {

ChoiceOutput::ChoiceOutput(const text::Tokenizer& tokenizer, text::StopMatcher stop_matcher,
                           const std::vector<std::string>& stops, int32_t choice,
                           int32_t min_tokens)
    : choice_(choice),
      min_tokens_(min_tokens),
      stops_(stops),
      detokenizer_(tokenizer),
      stop_matcher_(std::move(stop_matcher)) {}

std::string ChoiceOutput::Match(const std::string& piece) {
  text::StopMatcher::Result result = stop_matcher_.Push(piece);
  if (result.stop_index) stop_ = stops_.at(*result.stop_index);
  return std::move(result.text);
}

DeltaEvent ChoiceOutput::Push(std::vector<GeneratedToken> tokens) {
  DeltaEvent delta{.choice = choice_};
  for (GeneratedToken& token : tokens) {
    if (stopped()) break;
    ++num_tokens_;
    const std::string piece = detokenizer_.Push(token.token);
    delta.text += num_tokens_ <= min_tokens_ ? piece : Match(piece);
    delta.tokens.push_back(std::move(token));
  }
  return delta;
}

std::optional<DeltaEvent> ChoiceOutput::Flush() {
  DeltaEvent delta{.choice = choice_};
  if (!stopped()) delta.text = Match(detokenizer_.Flush());
  if (!stopped()) delta.text += stop_matcher_.Flush();
  if (delta.text.empty()) return std::nullopt;
  return delta;
}

}  // namespace longhaul::router
