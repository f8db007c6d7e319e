#include "common/text/word_cache.h"

#include <algorithm>

namespace longhaul::text {

void WordCache::Insert(const WordKey& key, std::span<const TokenId> tokens) {
  if (entries_.empty() || !key.holds_word() || tokens.size() > kMaxTokens) return;
  Entry& entry = entries_[key.hash() >> (64 - kCacheBits)];
  entry.key = key;
  std::ranges::copy(tokens, entry.tokens.begin());
  entry.num_tokens = static_cast<uint32_t>(tokens.size());
}

}  // namespace longhaul::text
