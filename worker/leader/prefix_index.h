#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/types.h"
#include "worker/leader/eviction_order.h"
#include "worker/step_plan.h"

namespace longhaul::worker::leader {

// Prefixes that became findable and ceased to be, since they were last taken. None is in both.
struct PrefixChanges {
  std::vector<Digest> added;
  std::vector<Digest> removed;
};

// One block of a prefix, with a copy of its KV in some tiers.
struct CachedBlock {
  static constexpr int kTiers = 3;
  static constexpr int32_t kNowhere = -1;

  Digest identity;
  Digest parent;  // identity of the block before it, or the root
  int64_t first_position = 0;
  std::array<TokenId, kKvBlockTokens> tokens;
  std::array<int32_t, kTiers> slots = {kNowhere, kNowhere, kNowhere};
  std::array<int32_t, kTiers> pins = {};  // reasons why the copy in a tier must stay

  int32_t slot(KvMove::Tier tier) const { return slots[static_cast<size_t>(tier)]; }
  bool is_in(KvMove::Tier tier) const { return slot(tier) != kNowhere; }
  bool is_below(KvMove::Tier tier) const {
    return (tier < KvMove::Tier::kHost && is_in(KvMove::Tier::kHost)) ||
           (tier < KvMove::Tier::kDisk && is_in(KvMove::Tier::kDisk));
  }
  bool is_pinned(KvMove::Tier tier) const { return pins[static_cast<size_t>(tier)] > 0; }
  bool findable() const { return slots != std::array{kNowhere, kNowhere, kNowhere}; }
};

// What the slots of each tier hold, found by identity, and who goes first when one is needed:
// nobody who is pinned or has a child in the same tier, so that a prefix is shortened from its end;
// else as EvictionOrder says, by a cost that grows with the position.
//
// Knows no references, no moves. Thread-compatible: part of PrefixCache. Deterministic.
class PrefixIndex {
 public:
  using Tier = KvMove::Tier;

  PrefixIndex() = default;
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  // Forgets what the tier holds; it has so many slots from now on, all free.
  void Reset(Tier tier, int32_t slots);

  // The findable block with this identity and these tokens; null if there is none.
  const CachedBlock* Find(const Digest& identity, std::span<const TokenId> tokens) const;
  // Whether findable or not; null if unknown.
  CachedBlock* Get(const Digest& identity);
  // What the slot holds; null if nothing that can be found.
  CachedBlock* In(Tier tier, int32_t slot) { return shelf(tier).blocks[Index(slot)]; }

  // A new one, in no tier yet. Precondition: the identity is unknown.
  CachedBlock& Add(const Digest& identity, const Digest& parent, int64_t first_position,
                   std::span<const TokenId> tokens);
  // Forgets a block that is in no tier and not pinned; leaves others.
  void Settle(CachedBlock& block);

  std::optional<int32_t> TakeFreeSlot(Tier tier);
  void ReturnSlot(Tier tier, int32_t slot) { shelf(tier).free.push_back(slot); }

  // A copy is in that slot, which was taken and is empty.
  void Put(CachedBlock& block, Tier tier, int32_t slot);
  // The copy is void, its slot free.
  void Remove(CachedBlock& block, Tier tier);

  void Pin(CachedBlock& block, Tier tier);
  void Unpin(CachedBlock& block, Tier tier);
  // It is used now.
  void Use(CachedBlock& block);
  // Who goes first; null if nobody may. To be removed from the tier at once.
  CachedBlock* Victim(Tier tier);

  PrefixChanges TakeChanges();

  int32_t num_slots(Tier tier) const { return static_cast<int32_t>(shelf(tier).blocks.size()); }
  int32_t num_cached(Tier tier) const { return shelf(tier).num_cached; }

 private:
  // Identities are uniformly random.
  struct DigestHash {
    size_t operator()(const Digest& digest) const { return static_cast<size_t>(digest.low); }
  };
  struct Shelf {
    std::vector<CachedBlock*> blocks;  // by slot; null = none
    std::vector<int32_t> free;         // last in, first out: recently used memory is warm
    EvictionOrder order{0};
    int32_t num_cached = 0;
  };

  static size_t Index(int32_t slot) { return static_cast<size_t>(slot); }
  Shelf& shelf(Tier tier) { return shelves_[static_cast<size_t>(tier)]; }
  const Shelf& shelf(Tier tier) const { return shelves_[static_cast<size_t>(tier)]; }
  void CountChild(const Digest& parent, Tier tier, int32_t change);
  void Reconsider(CachedBlock& block, Tier tier);
  void Note(const Digest& identity, bool added);

  std::unordered_map<Digest, CachedBlock, DigestHash> blocks_;
  // Children in each tier, by parent: known or not, since a child may outlive it.
  std::unordered_map<Digest, std::array<int32_t, CachedBlock::kTiers>, DigestHash> children_;
  std::array<Shelf, CachedBlock::kTiers> shelves_;
  std::unordered_map<Digest, bool, DigestHash> changes_;  // true = added
};

}  // namespace longhaul::worker::leader
