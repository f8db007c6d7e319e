#include "worker/leader/prefix_index.h"

#include <algorithm>
#include <utility>

#include "common/logging.h"

namespace longhaul::worker::leader {
namespace {

// What a block costs to compute, in tokens of the linear layers' work. Behind so many tokens,
// attention costs a 7B model on an H100 as much as all else. A constant and not the fitted cost
// model: what is kept must not depend on how long things took.
constexpr int64_t kAttentionWeighsAsMuch = 32'768;

int64_t CostOf(const CachedBlock& block) { return kAttentionWeighsAsMuch + block.first_position; }

constexpr KvMove::Tier kAllTiers[] = {KvMove::Tier::kDevice, KvMove::Tier::kHost,
                                      KvMove::Tier::kDisk};

}  // namespace

void PrefixIndex::Reset(Tier tier, int32_t slots) {
  for (int32_t slot = 0; slot < num_slots(tier); ++slot) {
    CachedBlock* block = In(tier, slot);
    if (block == nullptr) continue;
    Remove(*block, tier);
    Settle(*block);
  }
  Shelf fresh;
  fresh.blocks.resize(Index(slots));
  fresh.order = EvictionOrder(slots);
  fresh.free.reserve(Index(slots));
  for (int32_t slot = slots - 1; slot >= 0; --slot) fresh.free.push_back(slot);
  shelf(tier) = std::move(fresh);
}

const CachedBlock* PrefixIndex::Find(const Digest& identity,
                                     std::span<const TokenId> tokens) const {
  const auto found = blocks_.find(identity);
  if (found == blocks_.end() || !found->second.findable()) return nullptr;
  return std::ranges::equal(found->second.tokens, tokens) ? &found->second : nullptr;
}

CachedBlock* PrefixIndex::Get(const Digest& identity) {
  const auto found = blocks_.find(identity);
  return found == blocks_.end() ? nullptr : &found->second;
}

CachedBlock& PrefixIndex::Add(const Digest& identity, const Digest& parent, int64_t first_position,
                              std::span<const TokenId> tokens) {
  const auto [added, is_new] = blocks_.try_emplace(identity);
  CHECK(is_new) << "identity=" << identity.ToString();
  CachedBlock& block = added->second;
  block.identity = identity;
  block.parent = parent;
  block.first_position = first_position;
  std::ranges::copy(tokens, block.tokens.begin());
  return block;
}

void PrefixIndex::Settle(CachedBlock& block) {
  const bool pinned = std::ranges::any_of(block.pins, [](int32_t pins) { return pins > 0; });
  if (!block.findable() && !pinned) blocks_.erase(block.identity);
}

std::optional<int32_t> PrefixIndex::TakeFreeSlot(Tier tier) {
  std::vector<int32_t>& free = shelf(tier).free;
  if (free.empty()) return std::nullopt;
  const int32_t slot = free.back();
  free.pop_back();
  return slot;
}

void PrefixIndex::Put(CachedBlock& block, Tier tier, int32_t slot) {
  CHECK(!block.is_in(tier) && In(tier, slot) == nullptr) << "slot=" << slot;
  if (!block.findable()) Note(block.identity, /*added=*/true);
  Shelf& s = shelf(tier);
  s.blocks[Index(slot)] = &block;
  ++s.num_cached;
  block.slots[static_cast<size_t>(tier)] = slot;
  s.order.Use(slot, CostOf(block));
  CountChild(block.parent, tier, 1);
  Reconsider(block, tier);
}

void PrefixIndex::Remove(CachedBlock& block, Tier tier) {
  const int32_t slot = block.slot(tier);
  CHECK(block.is_in(tier));
  Shelf& s = shelf(tier);
  s.order.SetEvictable(slot, false);
  s.blocks[Index(slot)] = nullptr;
  s.free.push_back(slot);
  --s.num_cached;
  block.slots[static_cast<size_t>(tier)] = CachedBlock::kNowhere;
  CountChild(block.parent, tier, -1);
  if (!block.findable()) Note(block.identity, /*added=*/false);
}

void PrefixIndex::Pin(CachedBlock& block, Tier tier) {
  ++block.pins[static_cast<size_t>(tier)];
  Reconsider(block, tier);
}

void PrefixIndex::Unpin(CachedBlock& block, Tier tier) {
  CHECK(--block.pins[static_cast<size_t>(tier)] >= 0);
  Reconsider(block, tier);
}

void PrefixIndex::Use(CachedBlock& block) {
  for (const Tier tier : kAllTiers) {
    if (block.is_in(tier)) shelf(tier).order.Use(block.slot(tier), CostOf(block));
  }
}

CachedBlock* PrefixIndex::Victim(Tier tier) {
  const std::optional<int32_t> slot = shelf(tier).order.Evict();
  return slot ? In(tier, *slot) : nullptr;
}

void PrefixIndex::CountChild(const Digest& parent, Tier tier, int32_t change) {
  auto& counts = children_[parent];
  counts[static_cast<size_t>(tier)] += change;
  if (CachedBlock* block = Get(parent); block != nullptr) Reconsider(*block, tier);
  if (counts == std::array<int32_t, CachedBlock::kTiers>{}) children_.erase(parent);
}

void PrefixIndex::Reconsider(CachedBlock& block, Tier tier) {
  if (!block.is_in(tier)) return;
  const auto children = children_.find(block.identity);
  const bool leaf = children == children_.end() || children->second[static_cast<size_t>(tier)] == 0;
  shelf(tier).order.SetEvictable(block.slot(tier),
                                 leaf && block.pins[static_cast<size_t>(tier)] == 0);
}

void PrefixIndex::Note(const Digest& identity, bool added) {
  const auto [noted, is_new] = changes_.try_emplace(identity, added);
  if (!is_new && noted->second != added) changes_.erase(noted);
}

PrefixChanges PrefixIndex::TakeChanges() {
  PrefixChanges changes;
  for (const auto& [identity, added] : changes_) {
    (added ? changes.added : changes.removed).push_back(identity);
  }
  changes_.clear();
  return changes;
}

}  // namespace longhaul::worker::leader
