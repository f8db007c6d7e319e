#include "common/sip_hash.h"

#include <bit>
#include <cstring>

#include "common/logging.h"

namespace longhaul {

static_assert(std::endian::native == std::endian::little, "words are read as they lie in memory");

// The key's 16 bytes in order are two little-endian words.
SipHasher::SipHasher(const Digest& key) {
  const uint64_t k0 = __builtin_bswap64(key.high);
  const uint64_t k1 = __builtin_bswap64(key.low);
  v_ = {k0 ^ 0x736f6d6570736575ULL, k1 ^ 0x646f72616e646f6dULL ^ 0xee, k0 ^ 0x6c7967656e657261ULL,
        k1 ^ 0x7465646279746573ULL};
}

void SipHasher::Round() {
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

void SipHasher::Compress(uint64_t word) {
  v_[3] ^= word;
  Round();
  Round();
  v_[0] ^= word;
}

void SipHasher::Update(std::span<const uint8_t> bytes) {
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

void SipHasher::Update(std::string_view bytes) {
  Update(std::span(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()));
}

void SipHasher::UpdateWord(uint64_t word) {
  if (total_ % 8 == 0) {
    Compress(word);
    total_ += 8;
  } else {
    Update(std::bit_cast<std::array<uint8_t, 8>>(word));
  }
}

Digest SipHasher::Finish() const {
  SipHasher end = *this;
  std::array<uint8_t, 8> last = {};
  std::memcpy(last.data(), tail_.data(), total_ % 8);
  end.Compress(std::bit_cast<uint64_t>(last) | (total_ << 56));
  return end.Output();
}

Digest SipHasher::FinishFixedLength() const {
  CHECK(total_ % 8 == 0) << "bytes=" << total_;
  return SipHasher(*this).Output();
}

Digest SipHasher::Output() {
  v_[2] ^= 0xee;
  for (int i = 0; i < 4; ++i) Round();
  const uint64_t first = v_[0] ^ v_[1] ^ v_[2] ^ v_[3];
  v_[1] ^= 0xdd;
  for (int i = 0; i < 4; ++i) Round();
  const uint64_t second = v_[0] ^ v_[1] ^ v_[2] ^ v_[3];
  return {.high = __builtin_bswap64(first), .low = __builtin_bswap64(second)};
}

Digest SipHash128(const Digest& key, std::string_view data) {
  SipHasher hasher(key);
  hasher.Update(data);
  return hasher.Finish();
}

}  // namespace longhaul
