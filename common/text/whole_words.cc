#include "common/text/whole_words.h"

#include <bit>

namespace longhaul::text {

WholeWords::WholeWords(const BytePairEncoder& encoder, std::span<const std::string> token_bytes)
    : token_bytes_(token_bytes),
      slots_(std::bit_ceil(token_bytes.size() + token_bytes.size() / 2 + 2)) {
  BytePairEncoder::Workspace workspace;
  std::vector<TokenId> ids;
  for (size_t i = 0; i < token_bytes.size(); ++i) {
    const std::string& word = token_bytes[i];
    if (word.empty()) continue;
    const auto id = static_cast<TokenId>(i);
    ids.clear();
    encoder.Encode(word, workspace, ids);
    if (ids.size() != 1 || ids[0] != id) continue;
    const WordKey key(word);
    size_t slot = key.hash() & (slots_.size() - 1);
    while (slots_[slot].id != kNone) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = {.key = key, .id = id};
  }
}

TokenId WholeWords::Find(std::string_view word, const WordKey& key) const {
  for (size_t slot = key.hash() & (slots_.size() - 1);; slot = (slot + 1) & (slots_.size() - 1)) {
    const Slot& found = slots_[slot];
    if (found.id == kNone) return kNone;
    if (found.key == key &&
        (key.holds_word() || token_bytes_[static_cast<size_t>(found.id)] == word)) {
      return found.id;
    }
  }
}

}  // namespace longhaul::text
