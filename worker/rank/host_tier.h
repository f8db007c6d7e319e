#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/types.h"

namespace longhaul::worker::rank {

// KV blocks in the memory of the rank's host, one a slot, each with its checksum: what is read is
// what was written, or an error.
//
// Memory is touched as slots come into use. Knows bytes only: which block a slot holds is the
// leader's business. Owned by the executor thread; movable.
class HostTier {
 public:
  // Without slots.
  HostTier() = default;
  // `num_slots` >= 0, `block_bytes` > 0. kResourceExhausted names the bytes if the address space
  // cannot be had.
  static absl::StatusOr<HostTier> Create(int32_t num_slots, int64_t block_bytes);

  int32_t num_slots() const { return static_cast<int32_t>(checksums_.size()); }

  // Where to write the slot's next block. The slot is empty until Seal.
  std::span<uint8_t> Open(int32_t slot);
  // The slot holds the block that was written to it.
  void Seal(int32_t slot);
  // The slot's block, checked; valid until Open. kNotFound: the slot is empty. kDataLoss: its bytes
  // have changed since Seal; the slot is empty then.
  absl::StatusOr<std::span<const uint8_t>> Read(int32_t slot);

 private:
  struct Unmap {
    size_t bytes;
    void operator()(uint8_t* memory) const;
  };

  std::span<uint8_t> Bytes(int32_t slot) const;

  int64_t block_bytes_ = 0;
  std::unique_ptr<uint8_t[], Unmap> memory_;      // [num_slots][block_bytes]
  std::vector<std::optional<Digest>> checksums_;  // [num_slots]; absent = empty
};

}  // namespace longhaul::worker::rank
