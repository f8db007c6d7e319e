#include "common/text/word_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace longhaul::text {

static_assert(std::endian::native == std::endian::little, "a key's last byte is its highest");

// Two loads that overlap, shifted to where they belong: quicker than copying a length that only
// the running program knows.
WordCache::Key WordCache::KeyOf(std::string_view word) {
  const auto load = [&word]<typename Word>(size_t offset, Word value) -> uint64_t {
    std::memcpy(&value, word.data() + offset, sizeof(value));
    return value;
  };
  const size_t size = word.size();
  const uint64_t length = uint64_t{size} << 56;
  if (size > 8)
    return {load(0, uint64_t{0}), load(size - 8, uint64_t{0}) >> 8 * (16 - size) | length};
  if (size == 8) return {load(0, uint64_t{0}), length};
  if (size >= 4) {
    return {load(0, uint32_t{0}) | load(size - 4, uint32_t{0}) << 8 * (size - 4), length};
  }
  if (size >= 2) {
    return {load(0, uint16_t{0}) | load(size - 2, uint16_t{0}) << 8 * (size - 2), length};
  }
  return {size == 0 ? 0 : load(0, uint8_t{0}), length};
}

void WordCache::Insert(std::string_view word, uint64_t hash, std::span<const TokenId> tokens) {
  if (entries_.empty() || word.size() > kMaxBytes || word.empty() || tokens.size() > kMaxTokens) {
    return;
  }
  Entry& entry = entries_[hash >> (64 - kCacheBits)];
  entry.key = KeyOf(word);
  std::ranges::copy(tokens, entry.tokens.begin());
  entry.num_tokens = static_cast<uint32_t>(tokens.size());
}

}  // namespace longhaul::text
