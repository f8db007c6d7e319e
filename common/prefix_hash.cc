#include "common/prefix_hash.h"

#include <bit>

#include "common/logging.h"
#include "common/sip_hash.h"

namespace longhaul {
namespace {

// Length first, so that no two lists of fields give the same bytes.
void UpdateText(SipHasher& hasher, std::string_view text) {
  hasher.UpdateWord(text.size());
  hasher.Update(text);
}

}  // namespace

Digest PrefixRoot(const PrefixIdentity& identity) {
  SipHasher hasher(identity.model);
  UpdateText(hasher, "longhaul prefix 1");
  UpdateText(hasher, identity.kv_dtype);
  UpdateText(hasher, identity.attention_mode);
  hasher.UpdateWord(identity.attention_settings.high);
  hasher.UpdateWord(identity.attention_settings.low);
  UpdateText(hasher, identity.temperature);
  hasher.UpdateWord(kKvBlockTokens);
  return hasher.Finish();
}

Digest SaltPrefix(const Digest& root, std::string_view salt) {
  CHECK(salt.empty() || salt.size() == 16) << "salt of " << salt.size() << " bytes";
  if (salt.empty()) return root;
  SipHasher hasher(root);
  UpdateText(hasher, "tenant");
  UpdateText(hasher, salt);
  return hasher.Finish();
}

Digest LengthPrefix(const Digest& root, float temperature_factor) {
  SipHasher hasher(root);
  UpdateText(hasher, "length");
  hasher.UpdateWord(std::bit_cast<uint32_t>(temperature_factor));
  return hasher.Finish();
}

Digest ExtendPrefix(const Digest& parent, std::span<const TokenId> block) {
  CHECK(block.size() == size_t{kKvBlockTokens}) << "block of " << block.size() << " tokens";
  SipHasher hasher(parent);
  // Two ids a word.
  for (size_t i = 0; i < block.size(); i += 2) {
    hasher.UpdateWord(uint64_t{static_cast<uint32_t>(block[i])} |
                      uint64_t{static_cast<uint32_t>(block[i + 1])} << 32);
  }
  return hasher.FinishFixedLength();
}

std::vector<Digest> PrefixChain(const Digest& root, std::span<const TokenId> tokens) {
  std::vector<Digest> chain;
  chain.reserve(tokens.size() / kKvBlockTokens);
  Digest parent = root;
  for (size_t begin = 0; begin + kKvBlockTokens <= tokens.size(); begin += kKvBlockTokens) {
    parent = ExtendPrefix(parent, tokens.subspan(begin, kKvBlockTokens));
    chain.push_back(parent);
  }
  return chain;
}

}  // namespace longhaul
