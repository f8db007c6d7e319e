#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "common/types.h"

namespace longhaul {

// SipHash-2-4 with 128 bits of output (Aumasson, Bernstein 2012), fed piece by piece. Keys and
// results are in the byte order of the published test vectors: the first byte is the most
// significant one of Digest::high.
//
// A value, thread-compatible.
class SipHasher {
 public:
  explicit SipHasher(const Digest& key);

  // How the input is cut into pieces does not matter.
  void Update(std::span<const uint8_t> bytes);
  void Update(std::string_view bytes);
  // The 8 bytes of `word`, least significant first.
  void UpdateWord(uint64_t word);

  // Digest of all input so far. The hash may go on.
  Digest Finish() const;

  // A shorter way for inputs that all have one length, a multiple of 8 bytes (CHECK): without the
  // last block, which tells inputs of different lengths apart. Not what Finish gives.
  Digest FinishFixedLength() const;

 private:
  void Compress(uint64_t word);
  void Round();
  Digest Output();  // uses the state up

  std::array<uint64_t, 4> v_;
  std::array<uint8_t, 8> tail_ = {};  // the last total_ % 8 bytes
  uint64_t total_ = 0;                // bytes
};

// The same of one piece.
Digest SipHash128(const Digest& key, std::string_view data);

}  // namespace longhaul
