#include "worker/leader/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace longhaul::worker::leader {
namespace {

size_t BlocksWithin(std::span<const TokenId> tokens, int64_t max_tokens) {
  const auto limit = static_cast<size_t>(std::max<int64_t>(max_tokens, 0));
  return std::min(tokens.size(), limit) / kKvBlockTokens;
}

std::span<const TokenId> BlockOf(std::span<const TokenId> tokens, size_t block) {
  return tokens.subspan(block * kKvBlockTokens, kKvBlockTokens);
}

}  // namespace

PrefixCache::PrefixCache(int32_t num_blocks, const TierSlots& slots) { GroupUp(num_blocks, slots); }

void PrefixCache::GroupUp(int32_t num_blocks, const TierSlots& slots, bool disk_kept) {
  CHECK(!group_up_);
  CHECK(num_blocks >= 0 && slots.host >= 0 && slots.disk >= 0)
      << "num_blocks=" << num_blocks << " host=" << slots.host << " disk=" << slots.disk;
  group_up_ = true;
  blocks_.assign(Index(num_blocks), Block{});
  const auto reset = [this](Tier tier, int32_t count) {
    index_.Reset(tier, count);
    filled_[static_cast<size_t>(tier)].assign(Index(count), 0);
  };
  reset(Tier::kDevice, num_blocks);
  reset(Tier::kHost, slots.host);
  if (!disk_kept || num_slots(Tier::kDisk) != slots.disk) reset(Tier::kDisk, slots.disk);
}

void PrefixCache::GroupDown() {
  if (!queued_.empty()) batches_.push_back({.step = 0, .moves = std::exchange(queued_, {})});
  for (const Batch& batch : batches_) {
    for (const Move& move : batch.moves) {
      if (move.move.to == Tier::kDevice) {
        CachedBlock& cached = *index_.Get(move.identity);  // pinned
        index_.Unpin(cached, move.move.from);
        index_.Settle(cached);
      } else {
        DropTarget(move);  // no rank has confirmed it
      }
    }
  }
  batches_.clear();
  num_moves_down_ = 0;
  for (BlockId block = 0; block < num_blocks(); ++block) {
    CachedBlock* cached = index_.In(Tier::kDevice, block);
    if (cached != nullptr && blocks_[Index(block)].references > 0) {
      index_.Unpin(*cached, Tier::kDevice);
    }
  }
  index_.Reset(Tier::kDevice, 0);
  index_.Reset(Tier::kHost, 0);
  blocks_.clear();
  num_referenced_ = 0;
  group_up_ = false;
}

PrefixCache::Match PrefixCache::Acquire(const Digest& root, std::span<const TokenId> tokens,
                                        int64_t max_tokens, std::span<const Digest> chain) {
  Match match{.blocks = {}, .last = root};
  Digest identity = root;
  for (size_t i = 0; i < BlocksWithin(tokens, max_tokens); ++i) {
    identity = i < chain.size() ? chain[i] : ExtendPrefix(identity, BlockOf(tokens, i));
    const CachedBlock* cached = index_.Find(identity, BlockOf(tokens, i));
    if (cached == nullptr) break;
    if (match.restorable > 0 || !cached->is_in(Tier::kDevice)) {
      if (!cached->is_in(Tier::kHost) && !cached->is_in(Tier::kDisk)) break;
      ++match.restorable;
      continue;
    }
    const BlockId block = cached->slot(Tier::kDevice);
    AddReference(block);
    blocks_[Index(block)].complete = true;
    match.blocks.push_back(block);
    match.last = identity;
  }
  return match;
}

int64_t PrefixCache::CachedTokens(const Digest& root, std::span<const TokenId> tokens,
                                  int64_t max_tokens, std::span<const Digest> chain) const {
  Digest identity = root;
  size_t i = 0;
  for (; i < BlocksWithin(tokens, max_tokens); ++i) {
    identity = i < chain.size() ? chain[i] : ExtendPrefix(identity, BlockOf(tokens, i));
    const CachedBlock* cached = index_.Find(identity, BlockOf(tokens, i));
    if (cached == nullptr || !cached->is_in(Tier::kDevice)) break;
  }
  return static_cast<int64_t>(i) * kKvBlockTokens;
}

absl::StatusOr<std::vector<BlockId>> PrefixCache::Allocate(int32_t count) {
  CHECK(count >= 0) << "count=" << count;
  if (count > num_available()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "allocating ", count, " KV blocks: ", num_available(), " of ", num_blocks(), " available"));
  }
  std::vector<BlockId> blocks;
  blocks.reserve(Index(count));
  while (blocks.size() < Index(count)) {
    const std::optional<BlockId> block = index_.TakeFreeSlot(Tier::kDevice);
    if (!block) {
      CHECK(Evict(Tier::kDevice));
      continue;
    }
    AddReference(*block);
    blocks.push_back(*block);
  }
  return blocks;
}

Digest PrefixCache::Publish(const Digest& parent, std::span<const TokenId> block_tokens,
                            int64_t first_position, BlockId block) {
  CHECK(block >= 0 && block < num_blocks()) << "block=" << block << " of " << num_blocks();
  Block& held = blocks_[Index(block)];
  CHECK(held.references > 0 && held.restore == 0) << "block=" << block;
  held.complete = true;
  const Digest identity = ExtendPrefix(parent, block_tokens);
  CachedBlock* cached = index_.Get(identity);
  if (cached != nullptr && !std::ranges::equal(cached->tokens, block_tokens)) {
    return Digest{};  // another's identity: nothing that follows may be found behind it
  }
  if (const CachedBlock* before = index_.In(Tier::kDevice, block); before != nullptr) {
    CHECK(before == cached) << "block=" << block << " was published with other tokens";
    return identity;
  }
  if (held.twin || !CanFollow(parent, first_position)) return identity;
  if (cached == nullptr) cached = &index_.Add(identity, parent, first_position, block_tokens);
  Offer(*cached, block);
  return identity;
}

void PrefixCache::Offer(CachedBlock& cached, BlockId block) {
  if (cached.is_in(Tier::kDevice)) {
    const BlockId twin = cached.slot(Tier::kDevice);
    if (blocks_[Index(twin)].references > 0) {
      blocks_[Index(block)].twin = twin;
      return AddReference(twin);
    }
    index_.Remove(cached, Tier::kDevice);
  }
  index_.Put(cached, Tier::kDevice, block);
  index_.Pin(cached, Tier::kDevice);
  if (const std::optional<BlockId> parent = ParentOf(cached)) AddReference(*parent);
  DropSpareCopy(cached);
}

void PrefixCache::DropSpareCopy(CachedBlock& cached) {
  if (cached.is_in(Tier::kDevice) && cached.is_in(Tier::kHost) && !cached.is_pinned(Tier::kHost)) {
    index_.Remove(cached, Tier::kHost);
  }
}

void PrefixCache::Release(std::span<const BlockId> blocks) {
  for (size_t i = blocks.size(); i-- > 0;) DropReference(blocks[i]);
}

bool PrefixCache::CanFollow(const Digest& parent, int64_t first_position) {
  if (first_position == 0) return true;
  const CachedBlock* before = index_.Get(parent);
  if (before == nullptr || !before->is_in(Tier::kDevice)) return false;
  CHECK(before->first_position + kKvBlockTokens == first_position)
      << "first_position=" << first_position << " behind " << before->first_position;
  return blocks_[Index(before->slot(Tier::kDevice))].references > 0;
}

std::optional<BlockId> PrefixCache::ParentOf(const CachedBlock& cached) {
  if (cached.first_position == 0) return std::nullopt;
  const CachedBlock* parent = index_.Get(cached.parent);
  CHECK(parent != nullptr && parent->is_in(Tier::kDevice))
      << "identity=" << cached.identity.ToString() << " has lost the block before it";
  return parent->slot(Tier::kDevice);
}

void PrefixCache::AddReference(BlockId block) {
  // Whoever takes blocks in order stops at the first parent, which is referenced already.
  std::optional<BlockId> next = block;
  while (next && blocks_[Index(*next)].references++ == 0) {
    ++num_referenced_;
    CachedBlock* cached = index_.In(Tier::kDevice, *next);
    if (cached == nullptr) return;
    index_.Pin(*cached, Tier::kDevice);
    next = ParentOf(*cached);
  }
}

void PrefixCache::DropReference(BlockId block) {
  std::optional<BlockId> next = block;
  while (next) {
    CHECK(*next >= 0 && *next < num_blocks()) << "block=" << *next << " of " << num_blocks();
    Block& held = blocks_[Index(*next)];
    CHECK(held.references > 0) << "block=" << *next << " is not held";
    if (--held.references > 0) return;
    --num_referenced_;
    if (CachedBlock* cached = index_.In(Tier::kDevice, *next)) {
      index_.Use(*cached);
      index_.Unpin(*cached, Tier::kDevice);
      next = ParentOf(*cached);
    } else {
      index_.ReturnSlot(Tier::kDevice, *next);
      next = held.twin;
    }
    held = Block{};
  }
}

bool PrefixCache::Evict(Tier tier) {
  CachedBlock* victim = index_.Victim(tier);
  if (victim == nullptr) return false;
  if (!victim->is_below(tier)) MoveDown(*victim, tier);
  index_.Remove(*victim, tier);
  if (!victim->findable()) ++num_dropped_;
  index_.Settle(*victim);
  return true;
}

void PrefixCache::MoveDown(CachedBlock& cached, Tier from) {
  for (const Tier to : {Tier::kHost, Tier::kDisk}) {
    if (to <= from || num_slots(to) == 0) continue;
    if (IsFull()) return;
    std::optional<int32_t> slot = index_.TakeFreeSlot(to);
    if (!slot && Evict(to)) slot = index_.TakeFreeSlot(to);
    if (!slot) continue;
    if (IsFull()) return index_.ReturnSlot(to, *slot);  // by the move that made room
    Queue(cached, from, to, *slot, std::nullopt);
    index_.Put(cached, to, *slot);
    return;
  }
}

void PrefixCache::Queue(const CachedBlock& cached, Tier from, Tier to, int32_t to_slot,
                        std::optional<BlockId> previous) {
  const KvMove move = {.from = from,
                       .from_index = static_cast<uint32_t>(cached.slot(from)),
                       .to = to,
                       .to_index = static_cast<uint32_t>(to_slot)};
  const uint64_t source = from == Tier::kDevice ? 0 : FilledBy(from, move.from_index);
  FilledBy(to, move.to_index) = next_move_;
  if (to != Tier::kDevice) ++num_moves_down_;
  queued_.push_back({.move = move,
                     .number = next_move_++,
                     .source = source,
                     .identity = cached.identity,
                     .previous = previous});
}

int32_t PrefixCache::Restore(const Digest& root, std::span<const TokenId> tokens,
                             std::span<const BlockId> blocks, int32_t first, int32_t limit) {
  // Hash from the last block that has an identity of its own here.
  Digest identity = root;
  size_t begin = 0;
  for (size_t i = Index(first); i-- > 0;) {
    if (const CachedBlock* cached = index_.In(Tier::kDevice, blocks[i])) {
      identity = cached->identity;
      begin = i + 1;
      break;
    }
  }
  const size_t end = std::min(BlocksWithin(tokens, static_cast<int64_t>(tokens.size())),
                              std::min(blocks.size(), Index(first) + Index(limit)));
  int32_t num_queued = 0;
  for (size_t i = begin; i < end; ++i) {
    identity = ExtendPrefix(identity, BlockOf(tokens, i));
    if (i < Index(first)) continue;
    if (index_.Find(identity, BlockOf(tokens, i)) == nullptr) break;
    CachedBlock& cached = *index_.Get(identity);
    const Tier from = cached.is_in(Tier::kHost) ? Tier::kHost : Tier::kDisk;
    if (!cached.is_in(from)) break;
    Block& held = blocks_[Index(blocks[i])];
    CHECK(held.references > 0 && !held.complete && held.restore == 0) << "block=" << blocks[i];
    held.restore = next_move_;
    index_.Use(cached);
    index_.Pin(cached, from);
    Queue(cached, from, Tier::kDevice, blocks[i],
          i > 0 ? std::optional(blocks[i - 1]) : std::nullopt);
    ++num_queued;
  }
  return num_queued;
}

std::vector<KvMove> PrefixCache::TakeMoves(StepId step) {
  std::vector<KvMove> moves;
  moves.reserve(queued_.size());
  num_moves_down_ = 0;
  for (const Move& move : queued_) moves.push_back(move.move);
  if (!moves.empty()) batches_.push_back({.step = step, .moves = std::exchange(queued_, {})});
  return moves;
}

void PrefixCache::MovesDone(StepId step, std::span<const int32_t> failed) {
  if (batches_.empty() || batches_.front().step != step) {
    CHECK(failed.empty()) << "step=" << step << " had no moves";
    return;
  }
  Batch batch = std::move(batches_.front());
  batches_.pop_front();
  for (size_t i = 0; i < batch.moves.size(); ++i) {
    const Move& move = batch.moves[i];
    const bool has_failed =
        move.void_source || std::ranges::find(failed, static_cast<int32_t>(i)) != failed.end();
    if (has_failed) {
      Spoil(move.number, batch.moves);
      for (Batch& later : batches_) Spoil(move.number, later.moves);
      Spoil(move.number, queued_);
    }
    if (move.move.to == Tier::kDevice) {
      RestoreDone(move, has_failed);
    } else if (has_failed) {
      DropTarget(move);
    }
  }
}

void PrefixCache::Spoil(uint64_t number, std::span<Move> moves) {
  for (Move& move : moves) move.void_source = move.void_source || move.source == number;
}

void PrefixCache::DropTarget(const Move& move) {
  const auto slot = static_cast<int32_t>(move.move.to_index);
  if (FilledBy(move.move.to, move.move.to_index) != move.number) return;  // has another's by now
  CachedBlock* cached = index_.In(move.move.to, slot);
  if (cached == nullptr) return;
  index_.Remove(*cached, move.move.to);
  index_.Settle(*cached);
}

void PrefixCache::RestoreDone(const Move& move, bool failed) {
  const BlockId block = static_cast<BlockId>(move.move.to_index);
  const Tier from = move.move.from;
  CachedBlock& cached = *index_.Get(move.identity);  // pinned
  index_.Unpin(cached, from);
  const bool holds_source = cached.slot(from) == static_cast<int32_t>(move.move.from_index) &&
                            FilledBy(from, move.move.from_index) < move.number;
  if (failed && holds_source) index_.Remove(cached, from);

  Block& held = blocks_[Index(block)];
  if (held.restore == move.number) {  // else the sequence gave it up meanwhile
    held.restore = 0;
    held.complete = !failed && (!move.previous || blocks_[Index(*move.previous)].complete);
    if (held.complete && CanFollow(cached.parent, cached.first_position)) Offer(cached, block);
  }
  DropSpareCopy(cached);
  index_.Settle(cached);
}

}  // namespace longhaul::worker::leader
