#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>

namespace longhaul {

// Index into the vocabulary, 0 <= id < vocab_size.
using TokenId = int32_t;

// Index of a KV block (kKvBlockTokens tokens), the same on every rank of a group.
using BlockId = int32_t;

// A sequence within one incarnation of a group; never reused.
using SequenceId = uint64_t;

// A step plan within one incarnation of a group, from 1 without gaps.
using StepId = uint64_t;

// Tokens in one KV block (page). Divides every piece and every DCA segment.
inline constexpr int32_t kKvBlockTokens = 256;

// Version of the wires worker.proto and rank.proto; peers with another version are refused.
inline constexpr uint32_t kProtocolVersion = 3;

// 128 random bits that name a request on every process it passes. Value type.
struct RequestId {
  uint64_t high = 0;
  uint64_t low = 0;

  auto operator<=>(const RequestId&) const = default;
  // 32 lower-case hexadecimal digits.
  std::string ToString() const;
  // From the operating system's entropy source.
  static RequestId Random();
};

// A 128-bit digest of content (a model, a prefix). Not keyed; equality of digests is confirmed by
// comparing content where an adversary may choose it.
struct Digest {
  uint64_t high = 0;
  uint64_t low = 0;

  auto operator<=>(const Digest&) const = default;
  std::string ToString() const;                                     // 32 hexadecimal digits
  std::string ToBytes() const;                                      // 16 bytes, big-endian
  static bool FromBytes(const std::string& bytes, Digest* digest);  // false unless 16 bytes
};

}  // namespace longhaul

template <>
struct std::hash<longhaul::RequestId> {
  size_t operator()(const longhaul::RequestId& id) const noexcept {
    return id.high ^ (id.low * 0x9E3779B97F4A7C15ULL);
  }
};
