#include "worker/rank/block_checksum.h"

#include <xxhash.h>

namespace longhaul::worker::rank {

Digest BlockChecksum(std::span<const uint8_t> bytes, uint64_t slot) {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(bytes.data(), bytes.size(), slot);
  return {.high = hash.high64, .low = hash.low64};
}

}  // namespace longhaul::worker::rank
