#include "router/prefix_set.h"

#include <algorithm>
#include <map>

namespace longhaul::router {

PrefixSet PrefixSet::Changed(std::span<const Digest> added, std::span<const Digest> removed) const {
  std::map<size_t, Shard> touched;
  const auto shard_of = [&](const Digest& identity) -> Shard& {
    const size_t index = ShardOf(identity);
    const auto [entry, is_new] = touched.try_emplace(index);
    if (is_new && shards_[index] != nullptr) entry->second = *shards_[index];
    return entry->second;
  };
  PrefixSet changed = *this;
  for (const Digest& identity : removed) {
    Shard& shard = shard_of(identity);
    const auto found = std::ranges::lower_bound(shard, identity);
    if (found == shard.end() || *found != identity) continue;
    shard.erase(found);
    --changed.size_;
  }
  for (const Digest& identity : added) {
    if (changed.size_ >= kMaxSize) break;
    Shard& shard = shard_of(identity);
    const auto place = std::ranges::lower_bound(shard, identity);
    if (place != shard.end() && *place == identity) continue;
    shard.insert(place, identity);
    ++changed.size_;
  }
  for (auto& [index, shard] : touched) {
    changed.shards_[index] = std::make_shared<const Shard>(std::move(shard));
  }
  return changed;
}

bool PrefixSet::Contains(const Digest& identity) const {
  const std::shared_ptr<const Shard>& shard = shards_[ShardOf(identity)];
  return shard != nullptr && std::ranges::binary_search(*shard, identity);
}

size_t PrefixSet::CachedBlocks(std::span<const Digest> chain) const {
  const auto end = std::ranges::partition_point(
      chain, [this](const Digest& identity) { return Contains(identity); });
  return static_cast<size_t>(end - chain.begin());
}

}  // namespace longhaul::router
