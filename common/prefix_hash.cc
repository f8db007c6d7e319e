#include "common/prefix_hash.h"

#include <bit>

#include "common/logging.h"

namespace longhaul {
namespace {

uint64_t ByteSwap(uint64_t x) { return __builtin_bswap64(x); }

uint64_t LoadLittleEndian(const char* bytes, size_t count) {
  uint64_t word = 0;
  for (size_t i = 0; i < count; ++i) {
    word |= uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  }
  return word;
}

// Appends integers in little-endian order and strings with their length, so that no two inputs of
// different fields give the same bytes.
class Encoder {
 public:
  void Word(uint64_t word) {
    for (int i = 0; i < 8; ++i) bytes_.push_back(static_cast<char>(word >> (8 * i)));
  }
  void Text(std::string_view text) {
    Word(text.size());
    bytes_.append(text);
  }
  void Hash(const Digest& digest) {
    Word(digest.high);
    Word(digest.low);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

class SipState {
 public:
  explicit SipState(const Digest& key) {
    // The key's 16 bytes in order are two little-endian words.
    const uint64_t k0 = ByteSwap(key.high);
    const uint64_t k1 = ByteSwap(key.low);
    v0_ = k0 ^ 0x736f6d6570736575ULL;
    v1_ = k1 ^ 0x646f72616e646f6dULL ^ 0xee;
    v2_ = k0 ^ 0x6c7967656e657261ULL;
    v3_ = k1 ^ 0x7465646279746573ULL;
  }
  void Compress(uint64_t word) {
    v3_ ^= word;
    Round();
    Round();
    v0_ ^= word;
  }
  Digest Finish() {
    v2_ ^= 0xee;
    for (int i = 0; i < 4; ++i) Round();
    const uint64_t first = v0_ ^ v1_ ^ v2_ ^ v3_;
    v1_ ^= 0xdd;
    for (int i = 0; i < 4; ++i) Round();
    return {.high = ByteSwap(first), .low = ByteSwap(v0_ ^ v1_ ^ v2_ ^ v3_)};
  }

 private:
  void Round() {
    v0_ += v1_;
    v1_ = std::rotl(v1_, 13) ^ v0_;
    v0_ = std::rotl(v0_, 32);
    v2_ += v3_;
    v3_ = std::rotl(v3_, 16) ^ v2_;
    v0_ += v3_;
    v3_ = std::rotl(v3_, 21) ^ v0_;
    v2_ += v1_;
    v1_ = std::rotl(v1_, 17) ^ v2_;
    v2_ = std::rotl(v2_, 32);
  }
  uint64_t v0_, v1_, v2_, v3_;
};

}  // namespace

Digest SipHash128(const Digest& key, std::string_view data) {
  SipState state(key);
  size_t offset = 0;
  for (; offset + 8 <= data.size(); offset += 8) {
    state.Compress(LoadLittleEndian(data.data() + offset, 8));
  }
  state.Compress(LoadLittleEndian(data.data() + offset, data.size() - offset) |
                 uint64_t{data.size()} << 56);
  return state.Finish();
}

Digest PrefixRoot(const PrefixIdentity& identity) {
  Encoder encoder;
  encoder.Text("longhaul prefix 1");
  encoder.Text(identity.kv_dtype);
  encoder.Text(identity.attention_mode);
  encoder.Hash(identity.attention_settings);
  encoder.Text(identity.temperature);
  encoder.Word(kKvBlockTokens);
  return SipHash128(identity.model, encoder.bytes());
}

Digest SaltPrefix(const Digest& root, std::string_view salt) {
  CHECK(salt.empty() || salt.size() == 16) << "salt of " << salt.size() << " bytes";
  if (salt.empty()) return root;
  Encoder encoder;
  encoder.Text("tenant");
  encoder.Text(salt);
  return SipHash128(root, encoder.bytes());
}

Digest LengthPrefix(const Digest& root, float temperature_factor) {
  Encoder encoder;
  encoder.Text("length");
  encoder.Word(std::bit_cast<uint32_t>(temperature_factor));
  return SipHash128(root, encoder.bytes());
}

Digest ExtendPrefix(const Digest& parent, std::span<const TokenId> block) {
  CHECK(block.size() == size_t{kKvBlockTokens}) << "block of " << block.size() << " tokens";
  SipState state(parent);
  // Two ids a word; the length is constant, so no padding word is needed to tell inputs apart.
  for (size_t i = 0; i < block.size(); i += 2) {
    state.Compress(uint64_t{static_cast<uint32_t>(block[i])} |
                   uint64_t{static_cast<uint32_t>(block[i + 1])} << 32);
  }
  return state.Finish();
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
