#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace longhaul::worker::rank {

// KV blocks in a file, one a slot, each with its checksum: what is loaded is what was stored, or an
// error. The file outlives the tier, so that a rank which is started anew finds its blocks.
//
// The file is sparse and grows as slots come into use. It goes through the page cache and is not
// synced: what an operating system loses when it dies, its leader has lost too. Knows bytes only:
// which block a slot holds is the leader's business. Owned by the executor thread; movable.
class DiskTier {
 public:
  // Without slots and without a file.
  DiskTier() = default;
  // Opens the file, or makes it, and keeps others from opening it. `num_slots` > 0, `block_bytes`
  // > 0. Errors name the file: kInvalidArgument (no such folder, not writable), kFailedPrecondition
  // (open already, in this process or another).
  static absl::StatusOr<DiskTier> Open(const std::string& path, int32_t num_slots,
                                       int64_t block_bytes);
  ~DiskTier();
  DiskTier(DiskTier&& other) noexcept { *this = std::move(other); }
  DiskTier& operator=(DiskTier&& other) noexcept;

  // Bytes that a slot takes in the file.
  static int64_t SlotBytes(int64_t block_bytes);

  int32_t num_slots() const { return num_slots_; }

  // `block` has block_bytes. After an I/O error (kUnavailable; a full disk is kResourceExhausted)
  // the slot is empty, or as it was.
  absl::Status Store(int32_t slot, std::span<const uint8_t> block);
  // Errors: kNotFound (the slot is empty), kDataLoss (its bytes are not those that were stored),
  // kUnavailable (I/O). `block` then holds anything.
  absl::Status Load(int32_t slot, std::span<uint8_t> block) const;

 private:
  int64_t Offset(int32_t slot) const;

  int fd_ = -1;
  int32_t num_slots_ = 0;
  int64_t block_bytes_ = 0;
};

}  // namespace longhaul::worker::rank
