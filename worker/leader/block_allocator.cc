#include "worker/leader/block_allocator.h"

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace longhaul::worker::leader {

BlockAllocator::BlockAllocator(int32_t num_blocks) {
  CHECK(num_blocks >= 0) << "num_blocks=" << num_blocks;
  reference_count_.resize(num_blocks);
  free_list_.reserve(num_blocks);
  for (BlockId id = num_blocks - 1; id >= 0; --id) free_list_.push_back(id);
}

absl::StatusOr<std::vector<BlockId>> BlockAllocator::Allocate(int32_t count) {
  CHECK(count >= 0) << "count=" << count;
  if (count > num_free()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "allocating ", count, " KV blocks: ", num_free(), " of ", num_blocks(), " free"));
  }
  std::vector<BlockId> ids(free_list_.rbegin(), free_list_.rbegin() + count);
  free_list_.resize(free_list_.size() - count);
  for (const BlockId id : ids) reference_count_[id] = 1;
  return ids;
}

void BlockAllocator::Share(std::span<const BlockId> ids) {
  for (const BlockId id : ids) ++LiveCount(id);
}

void BlockAllocator::Release(std::span<const BlockId> ids) {
  for (const BlockId id : ids) {
    if (--LiveCount(id) == 0) free_list_.push_back(id);
  }
}

int32_t& BlockAllocator::LiveCount(BlockId id) {
  CHECK(id >= 0 && id < num_blocks()) << "block=" << id << " num_blocks=" << num_blocks();
  CHECK(reference_count_[id] > 0) << "block=" << id << " is free";
  return reference_count_[id];
}

}  // namespace longhaul::worker::leader
