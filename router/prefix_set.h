#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "common/types.h"

namespace longhaul::router {

// Identities of the prefixes that a group has cached. An immutable value that shares what it can
// with the one it was made from: a change copies only the shards it falls into, 2% of a full set
// for five identities.
class PrefixSet {
 public:
  // More than a leader tells of (worker.proto); what is added beyond is left out.
  static constexpr size_t kMaxSize = 262'144;

  // This set with and without some identities; any of them may be in it already, or not in it.
  PrefixSet Changed(std::span<const Digest> added, std::span<const Digest> removed) const;

  bool Contains(const Digest& identity) const;
  size_t size() const { return size_; }

  // Blocks of the longest part of `chain` (PrefixChain), from its start on, that is in the set. A
  // logarithmic number of look-ups: where a block is cached, those before it are too, but for the
  // rare one that was lost, which then goes unnoticed.
  size_t CachedBlocks(std::span<const Digest> chain) const;

 private:
  static constexpr size_t kShards = 256;
  using Shard = std::vector<Digest>;  // ascending

  static size_t ShardOf(const Digest& identity) { return identity.high >> 56; }

  std::array<std::shared_ptr<const Shard>, kShards> shards_;  // null = empty
  size_t size_ = 0;
};

}  // namespace longhaul::router
