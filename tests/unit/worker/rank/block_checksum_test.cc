#include "worker/rank/block_checksum.h"

#include <algorithm>
#include <iostream>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace longhaul::worker::rank {
namespace {

std::vector<uint8_t> RandomBytes(size_t size) {
  const uint32_t seed = std::random_device()();
  std::cout << "seed " << seed << "\n";
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(size);
  std::generate(bytes.begin(), bytes.end(), [&random] { return static_cast<uint8_t>(random()); });
  return bytes;
}

TEST(BlockChecksum, EveryBitAndTheSlotCount) {
  // Around the sizes at which the hash changes its way.
  for (const size_t size : {1u, 16u, 17u, 128u, 129u, 240u, 241u, 1024u, 1025u}) {
    std::vector<uint8_t> bytes = RandomBytes(size);
    const Digest checksum = BlockChecksum(bytes, 0);
    EXPECT_NE(checksum, BlockChecksum(bytes, 1));
    EXPECT_NE(checksum, BlockChecksum(bytes, uint64_t{1} << 32));
    std::set<Digest> seen = {checksum};
    for (size_t bit = 0; bit < 8 * size; ++bit) {
      bytes[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
      seen.insert(BlockChecksum(bytes, 0));
      bytes[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    }
    EXPECT_EQ(seen.size(), 1 + 8 * size) << size;
    EXPECT_EQ(checksum, BlockChecksum(bytes, 0));
  }
}

// Files are read by a rank started anew, maybe with another version of the library.
TEST(BlockChecksum, IsTheSameAsEver) {
  EXPECT_EQ(BlockChecksum({}, 0).ToString(),
            "99aa06d3014798d86001c324468d497f");  // XXH3's own test
}

}  // namespace
}  // namespace longhaul::worker::rank
