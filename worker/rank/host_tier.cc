#include "worker/rank/host_tier.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "worker/rank/block_checksum.h"

namespace longhaul::worker::rank {

absl::StatusOr<HostTier> HostTier::Create(int32_t num_slots, int64_t block_bytes) {
  CHECK(num_slots >= 0 && block_bytes > 0) << "slots=" << num_slots << " bytes=" << block_bytes;
  HostTier tier;
  if (num_slots == 0) return tier;
  const size_t bytes = static_cast<size_t>(num_slots) * static_cast<size_t>(block_bytes);
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("host memory for ", num_slots, " KV blocks, ",
                                                     bytes, " bytes: ", std::strerror(errno),
                                                     " (kv-offload-gib)"));
  }
  tier.block_bytes_ = block_bytes;
  tier.memory_ = {static_cast<uint8_t*>(data), Unmap{bytes}};
  tier.checksums_.resize(static_cast<size_t>(num_slots));
  return tier;
}

void HostTier::Unmap::operator()(uint8_t* memory) const { munmap(memory, bytes); }

std::span<uint8_t> HostTier::Bytes(int32_t slot) const {
  CHECK(slot >= 0 && slot < num_slots()) << "slot=" << slot << " of " << num_slots();
  return {memory_.get() + slot * block_bytes_, static_cast<size_t>(block_bytes_)};
}

std::span<uint8_t> HostTier::Open(int32_t slot) {
  const std::span<uint8_t> bytes = Bytes(slot);
  checksums_[static_cast<size_t>(slot)].reset();
  return bytes;
}

void HostTier::Seal(int32_t slot) {
  checksums_[static_cast<size_t>(slot)] = BlockChecksum(Bytes(slot), static_cast<uint64_t>(slot));
}

absl::StatusOr<std::span<const uint8_t>> HostTier::Read(int32_t slot) {
  const std::span<const uint8_t> bytes = Bytes(slot);
  std::optional<Digest>& checksum = checksums_[static_cast<size_t>(slot)];
  if (!checksum.has_value()) return absl::NotFoundError("the slot holds nothing");
  if (BlockChecksum(bytes, static_cast<uint64_t>(slot)) != *checksum) {
    checksum.reset();
    return absl::DataLossError("the slot's bytes are not those that were stored");
  }
  return bytes;
}

}  // namespace longhaul::worker::rank
