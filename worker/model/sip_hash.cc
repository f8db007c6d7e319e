#include "worker/model/sip_hash.h"

#include <bit>
#include <cstring>

namespace longhaul::worker::model {

static_assert(std::endian::native == std::endian::little, "words are read as they lie in memory");

SipHash128::SipHash128(uint64_t key0, uint64_t key1)
    : v_{key0 ^ 0x736f6d6570736575ULL, key1 ^ 0x646f72616e646f6dULL ^ 0xee,
         key0 ^ 0x6c7967656e657261ULL, key1 ^ 0x7465646279746573ULL} {}

void SipHash128::Round() {
  auto& [v0, v1, v2, v3] = v_;
  v0 += v1;
  v1 = std::rotl(v1, 13) ^ v0;
  v0 = std::rotl(v0, 32);
  v2 += v3;
  v3 = std::rotl(v3, 16) ^ v2;
  v0 += v3;
  v3 = std::rotl(v3, 21) ^ v0;
  v2 += v1;
  v1 = std::rotl(v1, 17) ^ v2;
  v2 = std::rotl(v2, 32);
}

void SipHash128::Compress(uint64_t word) {
  v_[3] ^= word;
  Round();
  Round();
  v_[0] ^= word;
}

void SipHash128::Update(std::span<const uint8_t> bytes) {
  while (!bytes.empty() && (total_ % 8 != 0 || bytes.size() < 8)) {
    tail_[total_ % 8] = bytes.front();
    bytes = bytes.subspan(1);
    if (++total_ % 8 == 0) Compress(std::bit_cast<uint64_t>(tail_));
  }
  for (; bytes.size() >= 8; bytes = bytes.subspan(8), total_ += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data(), sizeof(word));
    Compress(word);
  }
  if (!bytes.empty()) Update(bytes);  // fewer than 8 are left
}

Digest SipHash128::Finish() const {
  SipHash128 end = *this;
  std::array<uint8_t, 8> last = {};
  std::memcpy(last.data(), tail_.data(), total_ % 8);
  end.Compress(std::bit_cast<uint64_t>(last) | (total_ << 56));
  Digest digest;
  end.v_[2] ^= 0xee;
  for (int i = 0; i < 4; ++i) end.Round();
  digest.high = end.v_[0] ^ end.v_[1] ^ end.v_[2] ^ end.v_[3];
  end.v_[1] ^= 0xdd;
  for (int i = 0; i < 4; ++i) end.Round();
  digest.low = end.v_[0] ^ end.v_[1] ^ end.v_[2] ^ end.v_[3];
  return digest;
}

}  // namespace longhaul::worker::model
