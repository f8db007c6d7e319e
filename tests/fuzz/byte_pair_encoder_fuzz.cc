// Byte pair encoding of words short and long, with merges of any kind and order: the tokens are
// those of merging one pair after the other.
#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/logging.h"
#include "common/text/byte_pair_encoder.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"

namespace longhaul::text {
namespace {

constexpr size_t kMaxTokenBytes = 4096;
constexpr size_t kMaxWordBytes = 8192;

// The definition: the pair of the lowest rank, the leftmost of several, until there is none.
std::vector<TokenId> Reference(const std::array<TokenId, 256>& byte_tokens,
                               const std::vector<BytePairEncoder::Merge>& merges,
                               std::string_view word) {
  std::map<std::pair<TokenId, TokenId>, size_t> ranks;
  for (size_t i = 0; i < merges.size(); ++i) ranks[{merges[i].left, merges[i].right}] = i;
  std::map<size_t, TokenId> symbols;  // by the position where they begin
  for (size_t i = 0; i < word.size(); ++i) {
    symbols[i] = byte_tokens[static_cast<uint8_t>(word[i])];
  }
  std::set<std::pair<size_t, size_t>> pairs;  // rank, position of the left one
  const auto for_pair = [&](std::map<size_t, TokenId>::iterator left, auto change) {
    const auto right = std::next(left);
    if (right == symbols.end()) return;
    const auto rank = ranks.find({left->second, right->second});
    if (rank != ranks.end()) change(std::pair(rank->second, left->first));
  };
  const auto insert = [&pairs](const auto& pair) { pairs.insert(pair); };
  const auto erase = [&pairs](const auto& pair) { pairs.erase(pair); };
  for (auto it = symbols.begin(); it != symbols.end(); ++it) for_pair(it, insert);
  while (!pairs.empty()) {
    const auto [rank, position] = *pairs.begin();
    const auto left = symbols.find(position);
    const auto right = std::next(left);
    for_pair(left, erase);
    for_pair(right, erase);
    if (left != symbols.begin()) for_pair(std::prev(left), erase);
    left->second = merges[rank].result;
    symbols.erase(right);
    for_pair(left, insert);
    if (left != symbols.begin()) for_pair(std::prev(left), insert);
  }
  std::vector<TokenId> ids;
  for (const auto& [position, id] : symbols) ids.push_back(id);
  return ids;
}

void Check(fuzz::FuzzInput& input) {
  // Four letters; a token is what its bytes are, so two merges may give the same one.
  std::array<TokenId, 256> byte_tokens;
  for (size_t byte = 0; byte < 256; ++byte) byte_tokens[byte] = static_cast<TokenId>(byte & 3);
  std::vector<std::string> tokens = {"a", "b", "c", "d"};
  std::map<std::string, TokenId> ids = {{"a", 0}, {"b", 1}, {"c", 2}, {"d", 3}};
  std::vector<BytePairEncoder::Merge> merges;
  const size_t order = input.Below(3);
  const size_t num_merges = input.Byte() % 64;
  for (size_t i = 0; i < num_merges; ++i) {
    const auto left = static_cast<TokenId>(input.Below(tokens.size()));
    const auto right = static_cast<TokenId>(input.Below(tokens.size()));
    const std::string bytes =
        tokens[static_cast<size_t>(left)] + tokens[static_cast<size_t>(right)];
    if (bytes.size() > kMaxTokenBytes) continue;
    const auto [token, is_new] = ids.emplace(bytes, static_cast<TokenId>(tokens.size()));
    if (is_new) tokens.push_back(bytes);
    merges.push_back({.left = left, .right = right, .result = token->second});
  }
  // A tokenizer learns parts before wholes; a file can say anything.
  if (order == 1) std::reverse(merges.begin(), merges.end());
  const auto middle = merges.begin() + static_cast<ptrdiff_t>(merges.size() / 2);
  if (order == 2) std::rotate(merges.begin(), middle, merges.end());

  const size_t word_bytes = input.Value<uint16_t>() % kMaxWordBytes;
  const size_t period = input.Value<uint16_t>();
  const std::string_view pattern = input.Rest();
  if (pattern.empty()) return;
  std::string word;
  for (size_t i = 0; i < word_bytes; ++i) {
    // Now and then the repetition is broken.
    const char byte = pattern[i % pattern.size()];
    word.push_back(period != 0 && i % period == period - 1 ? static_cast<char>(byte + 1) : byte);
  }

  const BytePairEncoder encoder(byte_tokens, merges);
  BytePairEncoder::Workspace workspace;
  const std::vector<TokenId> expected = Reference(byte_tokens, merges, word);
  // The second time the workspace has been used.
  for (int i = 0; i < 2; ++i) {
    std::vector<TokenId> out = {-7};
    encoder.Encode(word, workspace, out);
    CHECK(out[0] == -7);
    out.erase(out.begin());
    CHECK(out == expected) << out.size() << " tokens instead of " << expected.size();
  }
}

}  // namespace
}  // namespace longhaul::text

// Bytes: the order of the merges, their number, pairs of tokens, the word's length (2), how often
// its pattern is broken (2), the pattern.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longhaul::fuzz::FuzzInput input(data, size);
  longhaul::text::Check(input);
  return 0;
}
