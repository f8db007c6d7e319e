#include "common/text/detokenizer.h"

#include "common/text/utf8.h"

namespace longhaul::text {

std::string IncrementalDetokenizer::Push(TokenId id) {
  std::string text;
  if (skip_special_ && tokenizer_.IsSpecial(id)) return text;
  held_.append(tokenizer_.TokenBytes(id));
  held_.erase(0, AppendWellFormed(held_, Continuation::kMayFollow, text));
  return text;
}

std::string IncrementalDetokenizer::Flush() {
  std::string text;
  AppendWellFormed(held_, Continuation::kNone, text);
  held_.clear();
  return text;
}

}  // namespace longhaul::text
