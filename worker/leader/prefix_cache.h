#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <set>
#include <span>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "common/prefix_hash.h"
#include "common/types.h"
#include "worker/step_plan.h"

namespace longhaul::worker::leader {

// KV blocks that the ranks can keep besides those on the device.
struct TierSlots {
  int32_t host = 0;
  int32_t disk = 0;
};

// Entries of the cache that came and went, by identity, since they were last taken. None is in
// both.
struct PrefixChanges {
  std::vector<Digest> added;
  std::vector<Digest> removed;
};

// Owns the ids of KV blocks: which are free, which sequences hold them, and which hold the KV of a
// prefix that another request may begin with.
//
// A block that is complete and computed on all ranks is published under its identity
// (prefix_hash.h). From then on Acquire finds it, comparing its token ids too; without references
// it stays, and goes when its memory is needed, to a slot in host memory or on disk if there are
// any. Copies are made by the ranks, in the order of TakeMoves, before anything else in a plan.
//
// What goes first: never a block that is referenced or has a cached child in the same tier, so that
// a prefix is shortened from its end. Among the others GreedyDual decides: a block's priority is
// the cache's clock at its last use plus the cost of computing it, which grows with its position,
// because attention has all that is before it to read; the lowest goes, and the clock becomes its
// priority. So a flood of short prompts has to pass a long prefix's last block many times over
// before it takes that one, but nothing stays for ever.
//
// A block with references holds one on the block before it, so whatever has no reference can be
// evicted.
//
// Knows no sequences, no requests; no I/O, no clock, no locks; deterministic. Thread-compatible:
// owned by the batch scheduler. A call is O(log n) for each block that it touches; those that take
// a prompt hash its blocks as far as they are cached (about 1 ms for 500,000 tokens).
class PrefixCache {
 public:
  using Tier = KvMove::Tier;

  // No block; GroupUp gives some.
  PrefixCache() = default;
  explicit PrefixCache(int32_t num_blocks, const TierSlots& slots = {});
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // The ranks are up. What the disk kept stays if `disk_kept` and its slots are as many as before.
  // Precondition: GroupDown, or nothing was done before.
  void GroupUp(int32_t num_blocks, const TierSlots& slots, bool disk_kept);
  // The ranks are gone: all blocks, references, moves and host slots are void.
  void GroupDown();

  struct Match {
    std::vector<BlockId> blocks;  // one reference each is the caller's
    Digest last;                  // identity of the last of them; the root if there is none
    int32_t restorable = 0;       // further blocks that Restore could bring
    int64_t tokens() const { return static_cast<int64_t>(blocks.size()) * kKvBlockTokens; }
  };
  // The longest run of cached blocks from the start of `tokens` under `root`, within `max_tokens`.
  Match Acquire(const Digest& root, std::span<const TokenId> tokens, int64_t max_tokens);
  // How long that run is, in tokens.
  int64_t CachedTokens(const Digest& root, std::span<const TokenId> tokens,
                       int64_t max_tokens) const;
  // The same with what Restore could bring.
  int64_t KeptTokens(const Digest& root, std::span<const TokenId> tokens, int64_t max_tokens) const;

  // `count` >= 0 blocks with one reference each. What they evict is evicted now, so ask for what
  // the next plan needs rather than for all that a request may need. kResourceExhausted if fewer
  // are available; nothing has changed then.
  absl::StatusOr<std::vector<BlockId>> Allocate(int32_t count);

  // `block`, held by the caller, is complete on all ranks with these kKvBlockTokens tokens from
  // position `first_position` on. `parent`: identity of the block before, the root if there is
  // none. Returns its own, for the next call. Nothing else changes if the identity is cached on the
  // device already, or if the block before is not.
  Digest Publish(const Digest& parent, std::span<const TokenId> block_tokens,
                 int64_t first_position, BlockId block);

  // Drops one reference of each, the last first. A published block without references stays
  // findable until it is evicted; others are free. Every block must be held (CHECK).
  void Release(std::span<const BlockId> blocks);

  // `blocks`: those of a sequence that begins with `tokens`, the first `first` of them acquired,
  // published or being restored, the others allocated and not written. Queues copies of the next
  // ones of the prefix from host or disk, `limit` at most, and returns how many. Each of them is
  // `restoring` until its move has retired; then it is `complete`, and findable, or it is not: the
  // caller computes from the first one that is not.
  int32_t Restore(const Digest& root, std::span<const TokenId> tokens,
                  std::span<const BlockId> blocks, int32_t first, int32_t limit);
  bool restoring(BlockId block) const;
  // Holds the KV it should: acquired, published or restored.
  bool complete(BlockId block) const;

  // Moves for the plan of this step, to be carried out in order before its starts.
  std::vector<KvMove> TakeMoves(StepId step);
  bool has_moves() const { return !queued_.empty(); }
  // The step retired; `failed` are indices of its moves, ascending. Call it for each step, in
  // order, before what else the step brings.
  void MovesDone(StepId step, std::span<const int32_t> failed);

  PrefixChanges TakeChanges();

  int32_t num_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  // Free or evictable: Allocate gives as many.
  int32_t num_available() const { return num_blocks() - num_referenced_; }
  int32_t num_referenced() const { return num_referenced_; }
  // Blocks of the tier that hold a findable prefix, referenced or not.
  int32_t num_cached(Tier tier) const;
  // Evicted without a copy in another tier.
  int64_t num_dropped() const { return num_dropped_; }

 private:
  static constexpr int kTiers = 3;
  static constexpr int32_t kNowhere = -1;

  // Identities are uniformly random.
  struct DigestHash {
    size_t operator()(const Digest& d) const { return d.low; }
  };
  // The KV of one block of a prefix, in one tier or more.
  struct Entry {
    Digest identity;
    Digest parent;
    int64_t first_position = 0;
    std::array<TokenId, kKvBlockTokens> tokens;
    std::array<int32_t, kTiers> at = {kNowhere, kNowhere, kNowhere};
    int64_t priority = 0;
    uint64_t last_use = 0;
    int32_t readers = 0;  // restores on their way from host or disk
  };
  // A block on the device.
  struct Block {
    int32_t references = 0;
    Entry* entry = nullptr;  // whose device copy it is
    bool complete = false;
    uint64_t restore = 0;  // number of the move that fills it; 0 = none
  };
  // One of the tiers: its slots and who goes first.
  struct Shelf {
    std::vector<int32_t> free;
    std::set<std::tuple<int64_t, uint64_t, int32_t>> victims;  // priority, last use, index
    std::vector<Entry*> entries;                               // by index
    int64_t clock = 0;
    int32_t num_cached = 0;
  };

  std::unordered_map<Digest, Entry, DigestHash> entries_;
  std::vector<Block> blocks_;
  std::vector<KvMove> queued_;
  int32_t num_referenced_ = 0;
  int64_t num_dropped_ = 0;
};

}  // namespace longhaul::worker::leader
