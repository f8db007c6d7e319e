#include "common/text/byte_pair_encoder.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include "common/logging.h"

namespace longhaul::text {
namespace {

constexpr size_t kMaxWordBytes = INT32_MAX;
constexpr uint64_t kHashMultiplier = 0x9E3779B97F4A7C15ULL;  // 2^64 / golden ratio

uint64_t HashPair(TokenId left, TokenId right) {
  const uint64_t key = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  return (key ^ key >> 29) * kHashMultiplier;
}

}  // namespace

BytePairEncoder::BytePairEncoder(const std::array<TokenId, 256>& byte_tokens,
                                 std::span<const Merge> merges)
    : byte_tokens_(byte_tokens), merges_(merges.begin(), merges.end()) {
  const size_t num_slots = std::bit_ceil(2 * merges_.size() + 2);
  slots_.assign(num_slots, kNoRank);
  slot_shift_ = 64 - std::countr_zero(num_slots);
  for (uint32_t rank = 0; rank < merges_.size(); ++rank) {
    const Merge& merge = merges_[rank];
    size_t slot = HashPair(merge.left, merge.right) >> slot_shift_;
    while (slots_[slot] != kNoRank && (merges_[slots_[slot]].left != merge.left ||
                                       merges_[slots_[slot]].right != merge.right)) {
      slot = (slot + 1) & (num_slots - 1);
    }
    slots_[slot] = rank;
  }
}

uint32_t BytePairEncoder::RankOf(TokenId left, TokenId right) const {
  size_t slot = HashPair(left, right) >> slot_shift_;
  while (slots_[slot] != kNoRank) {
    const Merge& merge = merges_[slots_[slot]];
    if (merge.left == left && merge.right == right) return slots_[slot];
    slot = (slot + 1) & (slots_.size() - 1);
  }
  return kNoRank;
}

void BytePairEncoder::Encode(std::string_view word, Workspace& workspace,
                             std::vector<TokenId>& out) const {
  using CachedWord = Workspace::CachedWord;
  if (word.size() == 1) {
    out.push_back(byte_tokens_[static_cast<uint8_t>(word[0])]);
    return;
  }
  if (++workspace.num_words_ <= Workspace::kWordsBeforeCache ||
      word.size() > CachedWord::kMaxBytes || word.empty()) {
    MergeWord(word, workspace, out);
    return;
  }
  if (workspace.cache_.empty()) workspace.cache_.resize(size_t{1} << Workspace::kCacheBits);
  const size_t hash = std::hash<std::string_view>()(word) * kHashMultiplier;
  CachedWord& cached = workspace.cache_[hash >> (64 - Workspace::kCacheBits)];
  if (cached.num_bytes == word.size() &&
      std::memcmp(cached.bytes.data(), word.data(), word.size()) == 0) {
    out.insert(out.end(), cached.tokens.begin(), cached.tokens.begin() + cached.num_tokens);
    return;
  }
  const size_t begin = out.size();
  MergeWord(word, workspace, out);
  const size_t num_tokens = out.size() - begin;
  if (num_tokens > CachedWord::kMaxTokens) return;
  std::memcpy(cached.bytes.data(), word.data(), word.size());
  cached.num_bytes = static_cast<uint8_t>(word.size());
  std::copy(out.begin() + static_cast<ptrdiff_t>(begin), out.end(), cached.tokens.begin());
  cached.num_tokens = static_cast<uint32_t>(num_tokens);
}

void BytePairEncoder::MergeWord(std::string_view word, Workspace& workspace,
                                std::vector<TokenId>& out) const {
  CHECK(word.size() <= kMaxWordBytes) << "word_bytes=" << word.size();
  std::vector<Workspace::Symbol>& symbols = workspace.symbols_;
  std::vector<uint64_t>& heap = workspace.heap_;
  symbols.clear();
  heap.clear();
  const auto count = static_cast<int32_t>(word.size());
  for (int32_t i = 0; i < count; ++i) {
    const TokenId id = byte_tokens_[static_cast<uint8_t>(word[static_cast<size_t>(i)])];
    symbols.push_back({.id = id, .previous = i - 1, .next = i + 1 < count ? i + 1 : -1});
  }
  const auto entry_at = [&](int32_t position) -> uint64_t {
    const Workspace::Symbol& symbol = symbols[static_cast<size_t>(position)];
    const uint32_t rank = RankOf(symbol.id, symbols[static_cast<size_t>(symbol.next)].id);
    return static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(position);
  };
  const auto push = [&](int32_t position) {
    const uint64_t entry = entry_at(position);
    if (entry >> 32 == kNoRank) return;
    heap.push_back(entry);
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  for (int32_t i = 0; i + 1 < count; ++i) {
    const uint64_t entry = entry_at(i);
    if (entry >> 32 != kNoRank) heap.push_back(entry);
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());

  constexpr TokenId kMergedAway = -1;
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const Merge& merge = merges_[heap.back() >> 32];
    const auto position = static_cast<int32_t>(heap.back() & UINT32_MAX);
    heap.pop_back();
    Workspace::Symbol& left = symbols[static_cast<size_t>(position)];
    if (left.id != merge.left || left.next < 0) continue;  // out of date: the pair is gone
    Workspace::Symbol& right = symbols[static_cast<size_t>(left.next)];
    if (right.id != merge.right) continue;
    left.id = merge.result;
    left.next = right.next;
    right.id = kMergedAway;
    if (left.next >= 0) {
      symbols[static_cast<size_t>(left.next)].previous = position;
      push(position);
    }
    if (left.previous >= 0) push(left.previous);
  }
  for (int32_t i = count > 0 ? 0 : -1; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    out.push_back(symbols[static_cast<size_t>(i)].id);
  }
}

}  // namespace longhaul::text
