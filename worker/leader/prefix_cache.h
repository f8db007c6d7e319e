#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/prefix_hash.h"
#include "common/types.h"
#include "worker/leader/prefix_index.h"
#include "worker/step_plan.h"

namespace longhaul::worker::leader {

// KV blocks that the ranks can keep besides those on the device.
struct TierSlots {
  int32_t host = 0;
  int32_t disk = 0;
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
// a prefix is shortened from its end. Among the others EvictionOrder decides, by a cost that grows
// with a block's position, because attention reads all that is before it. So a flood of short
// prompts takes a long prefix's end only after many times its own number of blocks, and nothing
// stays for ever.
//
// A block with references holds one on the published block before it, so whatever has no reference
// can be evicted.
//
// Knows no sequences, no requests; no I/O, no clock, no locks; deterministic. Thread-compatible:
// owned by the batch scheduler. A call is O(log n) for each block that it touches. Those that take
// a whole prompt hash it as far as it is cached, about 10 ms for 1,000,000 tokens; give them the
// PrefixChain of the tokens, or its beginning, as `chain`, and they need a third.
class PrefixCache {
 public:
  using Tier = KvMove::Tier;

  // Blocks that one plan moves out of their tier, at most. What is evicted beyond is dropped
  // instead of copied: a plan is not to be late for the sake of prefixes.
  static constexpr int32_t kMaxMovesDown = 128;

  // No block; GroupUp gives some.
  PrefixCache() = default;
  explicit PrefixCache(int32_t num_blocks, const TierSlots& slots = {});
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // The ranks are up. What the disk held stays if `disk_kept` and it has as many slots as before.
  // Precondition: no group is up.
  void GroupUp(int32_t num_blocks, const TierSlots& slots = {}, bool disk_kept = false);
  // The ranks are gone: all blocks, references, moves and host slots are void.
  void GroupDown();

  struct Match {
    std::vector<BlockId> blocks;  // one reference each is the caller's
    Digest last;                  // identity of the last of them; the root if there is none
    int32_t restorable = 0;       // further blocks that Restore could bring
    int64_t tokens() const { return static_cast<int64_t>(blocks.size()) * kKvBlockTokens; }
  };
  // The longest run of cached blocks from the start of `tokens` under `root`, within `max_tokens`.
  Match Acquire(const Digest& root, std::span<const TokenId> tokens, int64_t max_tokens,
                std::span<const Digest> chain = {});
  // Tokens of that run.
  int64_t CachedTokens(const Digest& root, std::span<const TokenId> tokens, int64_t max_tokens,
                       std::span<const Digest> chain = {}) const;

  // `count` >= 0 blocks with one reference each. What they evict is evicted now, so ask for what
  // the next plan needs rather than for all that a request may need. kResourceExhausted if fewer
  // are available; nothing has changed then.
  absl::StatusOr<std::vector<BlockId>> Allocate(int32_t count);

  // `block`, held by the caller, is complete on all ranks with these kKvBlockTokens tokens from
  // position `first_position` on. `parent`: identity of the block before, the root if there is
  // none. Returns its own, for the next call. It becomes findable, unless somebody holds a block
  // with that identity already, or nobody the one before. num_available() stays as it is. A second
  // time it changes nothing.
  Digest Publish(const Digest& parent, std::span<const TokenId> block_tokens,
                 int64_t first_position, BlockId block);

  // Drops one reference of each, the last first. A published block without references stays
  // findable until it is evicted; others are free. Every block must be held (CHECK).
  void Release(std::span<const BlockId> blocks);

  // `blocks`: those of a sequence that begins with `tokens`, the first `first` of them acquired,
  // published or restored (or being), the others allocated and in no plan. Queues copies of the
  // next ones of the prefix from host or disk, `limit` at most, and returns how many. Each is
  // `restoring` until its plan has retired; then it is `complete`, and findable, or it is not: from
  // the first that is not the caller computes.
  int32_t Restore(const Digest& root, std::span<const TokenId> tokens,
                  std::span<const BlockId> blocks, int32_t first, int32_t limit);
  bool restoring(BlockId block) const { return blocks_[Index(block)].restore != 0; }
  // Holds the KV it should: acquired, published or restored. Until it is released.
  bool complete(BlockId block) const { return blocks_[Index(block)].complete; }

  // Moves for the plan of this step, to be carried out in order before its starts.
  std::vector<KvMove> TakeMoves(StepId step);
  bool has_moves() const { return !queued_.empty(); }
  // The step, whose plan had these moves or none, has retired. `failed`: indices of those that did
  // not happen on some rank. What their targets hold is not believed, nor what other moves, on
  // their way already, have copied or will copy from there.
  void MovesDone(StepId step, std::span<const int32_t> failed);

  PrefixChanges TakeChanges() { return index_.TakeChanges(); }

  int32_t num_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  // Free or evictable: as many can be allocated.
  int32_t num_available() const { return num_blocks() - num_referenced_; }
  int32_t num_referenced() const { return num_referenced_; }
  // Blocks of the tier that hold a published prefix, referenced or not.
  int32_t num_cached(Tier tier) const { return index_.num_cached(tier); }
  int32_t num_slots(Tier tier) const { return index_.num_slots(tier); }
  // Prefix blocks that were evicted from their last tier, ever.
  int64_t num_dropped() const { return num_dropped_; }

 private:
  // A block on the device.
  struct Block {
    int32_t references = 0;
    bool complete = false;
    uint64_t restore = 0;         // number of the move that fills it; 0 = none
    std::optional<BlockId> twin;  // another's published one with the same KV, which it holds
  };
  struct Move {
    KvMove move;
    uint64_t number = 0;              // from 1
    uint64_t source = 0;              // number of the move that filled what it copies; 0 = none
    bool void_source = false;         // that one has failed
    Digest identity;                  // of what it copies
    std::optional<BlockId> previous;  // of a restored block: the one before it in its sequence
  };
  struct Batch {
    StepId step = 0;
    std::vector<Move> moves;
  };

  static size_t Index(int32_t slot) { return static_cast<size_t>(slot); }
  // Number of the last move into the slot.
  uint64_t& FilledBy(Tier tier, uint32_t slot) { return filled_[static_cast<size_t>(tier)][slot]; }
  bool IsFull() const { return num_moves_down_ >= kMaxMovesDown; }

  void AddReference(BlockId block);
  void DropReference(BlockId block);
  // The block before one on the device; none if that is the root.
  std::optional<BlockId> ParentOf(const CachedBlock& cached);
  // Whether what comes before `first_position` is on the device and stays there.
  bool CanFollow(const Digest& parent, int64_t first_position);

  // The held block has the KV of what is cached: it becomes its copy on the device if there is none
  // or one that nobody holds, else the twin of that one.
  void Offer(CachedBlock& cached, BlockId block);
  // A copy in host memory besides one on the device only takes room. (One on the disk saves the
  // disk's time when the block is evicted again.)
  void DropSpareCopy(CachedBlock& cached);

  // Frees a slot of the tier. False if nothing in it may go.
  bool Evict(Tier tier);
  // Copies it to the next lower tier that takes it, if one does.
  void MoveDown(CachedBlock& cached, Tier from);
  void Queue(const CachedBlock& cached, Tier from, Tier to, int32_t to_slot,
             std::optional<BlockId> previous);
  // What the move was to bring there is not there.
  void DropTarget(const Move& move);
  void RestoreDone(const Move& move, bool failed);
  // The move has failed, and so will those on their way that copy its target.
  void Spoil(uint64_t number, std::span<Move> moves);

  PrefixIndex index_;
  std::vector<Block> blocks_;                                      // by id
  std::array<std::vector<uint64_t>, CachedBlock::kTiers> filled_;  // by tier and slot
  std::vector<Move> queued_;                                       // for the next plan
  int32_t num_moves_down_ = 0;                                     // of them
  std::deque<Batch> batches_;  // in plans that have not retired; none is empty
  uint64_t next_move_ = 1;
  int32_t num_referenced_ = 0;
  int64_t num_dropped_ = 0;
  bool group_up_ = false;
};

}  // namespace longhaul::worker::leader
