#include "worker/leader/stop_rule.h"

#include <algorithm>
#include <utility>

namespace longhaul::worker::leader {
namespace {

bool Contains(const std::vector<TokenId>& ids, TokenId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

StopRule::StopRule(std::vector<TokenId> model_end_tokens)
    : model_end_tokens_(std::move(model_end_tokens)) {}

StopRule::Verdict StopRule::Judge(const Request& request, size_t output_tokens,
                                  TokenId token) const {
  const StopParams& stopping = request.stopping;
  if (static_cast<int64_t>(output_tokens) >= stopping.min_tokens) {
    if (!stopping.ignore_eos && Contains(model_end_tokens_, token)) return Verdict::kEndToken;
    if (Contains(stopping.stop_token_ids, token)) return Verdict::kStopToken;
  }
  if (static_cast<int64_t>(output_tokens) + 1 >= stopping.max_tokens) {
    return Verdict::kLengthReached;
  }
  return Verdict::kContinue;
}

std::vector<TokenId> StopRule::Banned(const Request& request) const {
  if (request.stopping.min_tokens <= 0) return {};
  std::vector<TokenId> banned = request.stopping.stop_token_ids;
  if (!request.stopping.ignore_eos) {
    banned.insert(banned.end(), model_end_tokens_.begin(), model_end_tokens_.end());
  }
  std::sort(banned.begin(), banned.end());
  banned.erase(std::unique(banned.begin(), banned.end()), banned.end());
  return banned;
}

}  // namespace longhaul::worker::leader
