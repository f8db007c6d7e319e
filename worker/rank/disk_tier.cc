#include "worker/rank/disk_tier.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/types.h"
#include "worker/rank/block_checksum.h"

namespace longhaul::worker::rank {
namespace {

// Slots begin at pages, so that no two share one.
constexpr int64_t kPageBytes = 4096;
constexpr uint64_t kMagic = 0x6b63'6f6c'6276'6b68;  // "hkvblock"

// Behind a slot's block. Zeroed before the block is written and written after it: whatever
// interrupts a store, the slot is empty. A slot that was never written reads as zeros.
struct Trailer {
  uint64_t magic = 0;
  uint64_t slot = 0;
  Digest checksum;
};
static_assert(sizeof(Trailer) == 32);

absl::Status IoError(const char* what, int error) {
  const std::string message = absl::StrCat(what, ": ", std::strerror(error));
  // Of the disk, of the user's share of it, of the largest file allowed.
  const bool is_full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return is_full ? absl::ResourceExhaustedError(message) : absl::UnavailableError(message);
}

absl::Status WriteAt(int fd, int64_t offset, const void* data, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  while (size > 0) {
    const ssize_t written = pwrite(fd, bytes, size, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return IoError("write", errno);
    bytes += written;
    offset += written;
    size -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

absl::Status ReadAt(int fd, int64_t offset, void* data, size_t size) {
  auto* bytes = static_cast<uint8_t*>(data);
  while (size > 0) {
    const ssize_t read = pread(fd, bytes, size, offset);
    if (read < 0 && errno == EINTR) continue;
    if (read < 0) return IoError("read", errno);
    if (read == 0) return absl::NotFoundError("the file ends before the slot does");
    bytes += read;
    offset += read;
    size -= static_cast<size_t>(read);
  }
  return absl::OkStatus();
}

}  // namespace

int64_t DiskTier::SlotBytes(int64_t block_bytes) {
  const int64_t bytes = block_bytes + static_cast<int64_t>(sizeof(Trailer));
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

absl::StatusOr<DiskTier> DiskTier::Open(const std::string& path, int32_t num_slots,
                                        int64_t block_bytes) {
  CHECK(num_slots > 0 && block_bytes > 0) << "slots=" << num_slots << " bytes=" << block_bytes;
  DiskTier tier;
  tier.fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (tier.fd_ < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot open ", path, ": ", std::strerror(errno), " (kv-offload-dir)"));
  }
  // A rank that is not quite dead would write to it.
  if (flock(tier.fd_, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot lock ", path, ": ", std::strerror(errno)));
  }
  tier.num_slots_ = num_slots;
  tier.block_bytes_ = block_bytes;
  return tier;
}

DiskTier::~DiskTier() {
  if (fd_ >= 0) close(fd_);
}

DiskTier& DiskTier::operator=(DiskTier&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(num_slots_, other.num_slots_);
  std::swap(block_bytes_, other.block_bytes_);
  return *this;
}

int64_t DiskTier::Offset(int32_t slot) const {
  CHECK(slot >= 0 && slot < num_slots_) << "slot=" << slot << " of " << num_slots_;
  return slot * SlotBytes(block_bytes_);
}

absl::Status DiskTier::Store(int32_t slot, std::span<const uint8_t> block) {
  CHECK(static_cast<int64_t>(block.size()) == block_bytes_) << block.size();
  const int64_t offset = Offset(slot);
  Trailer trailer;
  RETURN_IF_ERROR(WriteAt(fd_, offset + block_bytes_, &trailer, sizeof(trailer)));
  RETURN_IF_ERROR(WriteAt(fd_, offset, block.data(), block.size()));
  trailer = {.magic = kMagic,
             .slot = static_cast<uint64_t>(slot),
             .checksum = BlockChecksum(block, static_cast<uint64_t>(slot))};
  return WriteAt(fd_, offset + block_bytes_, &trailer, sizeof(trailer));
}

absl::Status DiskTier::Load(int32_t slot, std::span<uint8_t> block) const {
  CHECK(static_cast<int64_t>(block.size()) == block_bytes_) << block.size();
  const int64_t offset = Offset(slot);
  Trailer trailer;
  RETURN_IF_ERROR(ReadAt(fd_, offset + block_bytes_, &trailer, sizeof(trailer)));
  if (trailer.magic == 0) return absl::NotFoundError("the slot holds nothing");
  if (trailer.magic != kMagic || trailer.slot != static_cast<uint64_t>(slot)) {
    return absl::DataLossError("the slot's trailer is damaged");
  }
  RETURN_IF_ERROR(ReadAt(fd_, offset, block.data(), block.size()));
  if (BlockChecksum(block, static_cast<uint64_t>(slot)) != trailer.checksum) {
    return absl::DataLossError("the slot's bytes are not those that were stored");
  }
  return absl::OkStatus();
}

}  // namespace longhaul::worker::rank
