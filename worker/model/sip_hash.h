#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/types.h"

namespace longhaul::worker::model {

// SipHash-2-4 with 128 bits of output, fed piece by piece (Aumasson and Bernstein 2012). A value,
// thread-compatible.
class SipHash128 {
 public:
  // The key's two halves as little-endian words.
  explicit SipHash128(uint64_t key0, uint64_t key1);

  void Update(std::span<const uint8_t> bytes);
  // Digest of all bytes so far; `high` is the first of the two output words. The hash may go on.
  Digest Finish() const;

 private:
  void Compress(uint64_t word);
  void Round();

  std::array<uint64_t, 4> v_;
  std::array<uint8_t, 8> tail_ = {};  // the last total_ % 8 bytes
  uint64_t total_ = 0;                // bytes
};

}  // namespace longhaul::worker::model
