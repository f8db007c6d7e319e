#include "common/text/byte_pair_encoder.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "common/logging.h"

namespace longhaul::text {
namespace {

constexpr size_t kMaxWordBytes = INT32_MAX;
constexpr size_t kShortBytes = 24;     // up to it MergeShort is the fastest
constexpr size_t kWindowBytes = 1024;  // its heap and symbols fit the first-level cache

uint64_t HashPair(TokenId left, TokenId right) {
  const uint64_t key = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  return (key ^ key >> 29) * 0x9E3779B97F4A7C15ULL;  // 2^64 / golden ratio
}

}  // namespace

BytePairEncoder::BytePairEncoder(const std::array<TokenId, 256>& byte_tokens,
                                 std::span<const Merge> merges)
    : byte_tokens_(byte_tokens), slots_(std::bit_ceil(merges.size() + merges.size() / 2 + 2)) {
  slot_shift_ = 64 - std::countr_zero(slots_.size());
  for (uint32_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    const Slot& found = Find(merge.left, merge.right);
    slots_[static_cast<size_t>(&found - slots_.data())] = {
        .left = merge.left, .right = merge.right, .rank = rank, .result = merge.result};
  }
}

const BytePairEncoder::Slot& BytePairEncoder::Find(TokenId left, TokenId right) const {
  for (size_t slot = HashPair(left, right) >> slot_shift_;;
       slot = (slot + 1) & (slots_.size() - 1)) {
    const Slot& found = slots_[slot];
    if (found.rank == kNoRank || (found.left == left && found.right == right)) return found;
  }
}

void BytePairEncoder::Encode(std::string_view word, Workspace& workspace,
                             std::vector<TokenId>& out) const {
  CHECK(word.size() <= kMaxWordBytes) << "word_bytes=" << word.size();
  if (word.size() == 1) {
    out.push_back(byte_tokens_[static_cast<uint8_t>(word[0])]);
    return;
  }
  MergeWord(word, workspace, workspace.pieces_);
  for (const Piece& piece : workspace.pieces_) out.push_back(piece.id);
}

void BytePairEncoder::MergeWord(std::string_view word, Workspace& workspace,
                                std::vector<Piece>& out) const {
  if (word.size() <= kShortBytes) {
    MergeShort(word, out);
  } else if (word.size() <= kWindowBytes) {
    MergeByHeap(word, workspace, out);
  } else {
    MergeLong(word, workspace, out);
  }
}

void BytePairEncoder::MergeShort(std::string_view word, std::vector<Piece>& out) const {
  std::array<Piece, kShortBytes> pieces;
  // The merge of piece i with the next one.
  std::array<uint32_t, kShortBytes> ranks;
  std::array<TokenId, kShortBytes> results;
  size_t count = word.size();
  const auto look_up = [&](size_t i) {
    const Slot& merge = Find(pieces[i].id, pieces[i + 1].id);
    ranks[i] = merge.rank;
    results[i] = merge.result;
  };
  for (size_t i = 0; i < count; ++i) {
    pieces[i] = {.id = byte_tokens_[static_cast<uint8_t>(word[i])], .num_bytes = 1};
  }
  for (size_t i = 0; i + 1 < count; ++i) look_up(i);
  while (true) {
    size_t i = 0;  // the first of those with the lowest rank
    uint32_t lowest = kNoRank;
    for (size_t k = 0; k + 1 < count; ++k) {
      if (ranks[k] < lowest) {
        lowest = ranks[k];
        i = k;
      }
    }
    if (lowest == kNoRank) break;
    pieces[i] = {.id = results[i], .num_bytes = pieces[i].num_bytes + pieces[i + 1].num_bytes};
    for (size_t k = i + 1; k + 1 < count; ++k) {
      pieces[k] = pieces[k + 1];
      ranks[k] = ranks[k + 1];
      results[k] = results[k + 1];
    }
    --count;
    if (i + 1 < count) look_up(i);
    if (i > 0) look_up(i - 1);
  }
  out.assign(pieces.begin(), pieces.begin() + static_cast<ptrdiff_t>(count));
}

void BytePairEncoder::MergeByHeap(std::string_view word, Workspace& workspace,
                                  std::vector<Piece>& out) const {
  using Symbol = Workspace::Symbol;
  std::vector<Symbol>& symbols = workspace.symbols_;
  std::vector<uint64_t>& heap = workspace.heap_;
  const auto count = static_cast<int32_t>(word.size());
  symbols.resize(word.size());
  heap.clear();
  const auto symbol_at = [&](int32_t position) -> Symbol& {
    return symbols[static_cast<size_t>(position)];
  };
  // Looks up the merge at `position`; true if there is one, which then is the last of `heap`.
  const auto look_up = [&](int32_t position) {
    Symbol& symbol = symbol_at(position);
    if (symbol.next < 0) {
      symbol.rank = kNoRank;
      return false;
    }
    const Slot& merge = Find(symbol.id, symbol_at(symbol.next).id);
    symbol.rank = merge.rank;
    symbol.result = merge.result;
    if (merge.rank == kNoRank) return false;
    heap.push_back(static_cast<uint64_t>(merge.rank) << 32 | static_cast<uint32_t>(position));
    return true;
  };
  for (int32_t i = 0; i < count; ++i) {
    const TokenId id = byte_tokens_[static_cast<uint8_t>(word[static_cast<size_t>(i)])];
    symbol_at(i) = {.id = id,
                    .previous = i - 1,
                    .next = i + 1 < count ? i + 1 : -1,
                    .rank = kNoRank,
                    .result = -1};
  }
  for (int32_t i = 0; i < count; ++i) look_up(i);
  std::ranges::make_heap(heap, std::greater<>());

  while (!heap.empty()) {
    std::ranges::pop_heap(heap, std::greater<>());
    const auto rank = static_cast<uint32_t>(heap.back() >> 32);
    const auto position = static_cast<int32_t>(heap.back() & UINT32_MAX);
    heap.pop_back();
    Symbol& left = symbol_at(position);
    if (left.rank != rank) continue;  // out of date: the pair is gone
    Symbol& right = symbol_at(left.next);
    left.id = left.result;
    left.next = right.next;
    right.rank = kNoRank;
    if (left.next >= 0) symbol_at(left.next).previous = position;
    if (look_up(position)) std::ranges::push_heap(heap, std::greater<>());
    if (left.previous >= 0 && look_up(left.previous)) {
      std::ranges::push_heap(heap, std::greater<>());
    }
  }
  out.clear();
  for (int32_t i = count > 0 ? 0 : -1; i >= 0; i = symbol_at(i).next) {
    const int32_t end = symbol_at(i).next < 0 ? count : symbol_at(i).next;
    out.push_back({.id = symbol_at(i).id, .num_bytes = static_cast<uint32_t>(end - i)});
  }
}

bool BytePairEncoder::Neighbours(std::string_view word, size_t border, Piece left, Piece right,
                                 Workspace& workspace) const {
  const std::string_view bytes =
      word.substr(border - left.num_bytes, left.num_bytes + right.num_bytes);
  std::vector<Piece>& pair = workspace.pair_;
  if (bytes.size() <= kShortBytes) {
    MergeShort(bytes, pair);
  } else {
    MergeByHeap(bytes, workspace, pair);
  }
  return pair.size() == 2 && pair[0].id == left.id && pair[1].id == right.id;
}

// A list of tokens is what its bytes merge to if, and only if, each two neighbours are what their
// bytes merge to. For merging takes the least (rank, place) first, so what it does within a stretch
// of the word, as long as no merge crosses the stretch's ends, is what it does with the stretch
// alone. Consider the first merge that crosses a border between two tokens of the list: merging
// these two alone comes to the same one, and they would not be what their bytes merge to. And if no
// merge crosses the borders, each two neighbours are merged as if alone.
//
// So the word is merged window by window. The end of a window cuts words' tokens, so the next one
// takes the last tokens back and merges them anew, and more of them until its first token fits
// behind what is left. With merges learned from text the first attempt fits nearly always. With
// others it may take ever more: then one heap does the whole word, so that the time stays
// O(n log n).
void BytePairEncoder::MergeLong(std::string_view word, Workspace& workspace,
                                std::vector<Piece>& out) const {
  constexpr size_t kTakenBack = 2;
  std::vector<Piece>& window = workspace.window_;
  out.clear();
  const size_t max_merged_bytes = 4 * word.size();
  size_t merged_bytes = 0;
  for (size_t end = 0; end < word.size();) {
    const size_t old_end = end;
    end = std::min(end + kWindowBytes, word.size());
    size_t begin = old_end;
    size_t num_taken = 0;
    do {
      for (size_t more = std::max(num_taken, kTakenBack); more > 0 && !out.empty(); --more) {
        begin -= out.back().num_bytes;
        out.pop_back();
        ++num_taken;
      }
      merged_bytes += end - begin;
      if (merged_bytes > max_merged_bytes) return MergeByHeap(word, workspace, out);
      MergeByHeap(word.substr(begin, end - begin), workspace, window);
    } while (!out.empty() && !Neighbours(word, begin, out.back(), window.front(), workspace));
    out.insert(out.end(), window.begin(), window.end());
  }
}

}  // namespace longhaul::text
