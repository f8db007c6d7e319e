#include "worker/rank/host_tier.h"

#include <algorithm>
#include <iostream>
#include <random>
#include <vector>

#include "common/logging.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

constexpr int64_t kBlockBytes = 5000;

class HostTierTest : public ::testing::Test {
 protected:
  HostTierTest() : seed_(std::random_device()()), random_(seed_) {
    std::cout << "seed " << seed_ << "\n";
    auto tier = HostTier::Create(3, kBlockBytes);
    CHECK(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }

  std::vector<uint8_t> Store(int32_t slot) {
    const std::span<uint8_t> bytes = tier_.Open(slot);
    std::generate(bytes.begin(), bytes.end(), [this] { return static_cast<uint8_t>(random_()); });
    tier_.Seal(slot);
    return {bytes.begin(), bytes.end()};
  }
  void Expect(int32_t slot, const std::vector<uint8_t>& bytes) {
    ASSERT_OK_AND_ASSIGN(const std::span<const uint8_t> read, tier_.Read(slot));
    EXPECT_TRUE(std::equal(read.begin(), read.end(), bytes.begin(), bytes.end())) << slot;
  }

  const uint32_t seed_;
  std::mt19937 random_;
  HostTier tier_;
};

TEST_F(HostTierTest, SlotsHoldWhatWasStoredAndAreUsedAgain) {
  const auto first = Store(0);
  const auto last = Store(2);
  const auto middle = Store(1);
  Expect(0, first);
  Expect(1, middle);
  Expect(2, last);
  const auto again = Store(1);
  Expect(0, first);
  Expect(1, again);
  Expect(2, last);
}

TEST_F(HostTierTest, ASlotIsEmptyUntilSomethingIsStored) {
  EXPECT_THAT(tier_.Read(1).status(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("nothing")));
  Store(1);
  tier_.Open(1);
  EXPECT_THAT(tier_.Read(1).status(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("nothing")));
}

TEST_F(HostTierTest, AFlippedBitIsNoticed) {
  for (const size_t byte : {size_t{0}, size_t{2499}, size_t{kBlockBytes - 1}}) {
    const std::span<uint8_t> bytes = tier_.Open(1);
    tier_.Seal(1);
    bytes[byte] ^= static_cast<uint8_t>(1u << (random_() % 8));
    EXPECT_THAT(tier_.Read(1).status(),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("not those that were stored")));
    // Mended or not, it is not looked at again.
    EXPECT_TRUE(absl::IsNotFound(tier_.Read(1).status()));
  }
}

TEST(HostTier, MemoryIsTouchedAsItIsUsed) {
  // 64 GiB that no test machine has.
  ASSERT_OK_AND_ASSIGN(HostTier tier, HostTier::Create(1 << 16, 1 << 20));
  tier.Open((1 << 16) - 1)[(1 << 20) - 1] = 1;
}

TEST(HostTier, NamesTheSettingWhenMemoryCannotBeHad) {
  EXPECT_THAT(HostTier::Create(INT32_MAX, int64_t{1} << 20).status(),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("kv-offload-gib")));
}

TEST(HostTier, MayHaveNoSlots) {
  ASSERT_OK_AND_ASSIGN(const HostTier tier, HostTier::Create(0, kBlockBytes));
  EXPECT_EQ(tier.num_slots(), 0);
  EXPECT_EQ(HostTier().num_slots(), 0);
}

}  // namespace
}  // namespace longhaul::worker::rank
