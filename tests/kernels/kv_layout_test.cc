#include "kernels/kv_cache/kv_layout.h"

#include <cmath>

#include "kernels/kv_cache/bfloat16.h"
#include "tests/testing/kernel_testing.h"

namespace longhaul::kernels {
namespace {

using longhaul::testing::FreshRandom;
using longhaul::testing::Uniform;

TEST(KvLayout, PartsOfABlockFollowEachOtherWithoutGapsOrOverlap) {
  for (const KvDtype dtype : {KvDtype::kFloat32, KvDtype::kBFloat16}) {
    for (const int32_t heads : {1, 2, 8}) {
      for (const int32_t dim : {64, 128}) {
        const KvLayout layout = {heads, dim, dtype};
        int64_t next = 0;
        for (int32_t head = 0; head < heads; ++head, next += layout.HeadBytes()) {
          EXPECT_EQ(layout.KOffset(head), next);
        }
        for (int32_t head = 0; head < heads; ++head, next += layout.HeadBytes()) {
          EXPECT_EQ(layout.VOffset(head), next);
        }
        EXPECT_EQ(layout.ScaleOffset(), next);
        EXPECT_EQ(layout.BlockBytes(), next + int64_t{2} * 2 * heads * 256);
        EXPECT_EQ(layout.BlockBytes() % 64, 0);
      }
    }
  }
}

TEST(KvLayout, DemoModelTakesTwoKibibytesATokenAndLayerInFp32) {
  const KvLayout layout = {2, 128, KvDtype::kFloat32};
  EXPECT_EQ(layout.BlockBytes(), 256 * (2 * 2 * 128 * 4 + 8));
}

TEST(BFloat16, EveryValueSurvivesTheWayToFloatAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = BFloat16ToFloat(static_cast<uint16_t>(bits));
    const uint16_t back = FloatToBFloat16(value);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(BFloat16ToFloat(back))) << bits;
    } else {
      EXPECT_EQ(back, bits);
    }
  }
}

TEST(BFloat16, RoundsToTheNearestAndTiesToEven) {
  std::mt19937_64 random = FreshRandom();
  for (int i = 0; i < 100000; ++i) {
    const uint16_t low = static_cast<uint16_t>(Uniform(random, 0, 0x7f7e));
    const uint16_t high = static_cast<uint16_t>(low + 1);
    const double below = BFloat16ToFloat(low);
    const double above = BFloat16ToFloat(high);
    const float between = std::bit_cast<float>((uint32_t{low} << 16) +
                                               static_cast<uint32_t>(Uniform(random, 0, 0xffff)));
    const double to_low = between - below;
    const double to_high = above - between;
    const uint16_t even = low % 2 == 0 ? low : high;
    const uint16_t want = to_low < to_high ? low : to_low > to_high ? high : even;
    if (std::isinf(above)) continue;
    ASSERT_EQ(FloatToBFloat16(between), want) << between;
    ASSERT_EQ(FloatToBFloat16(-between), want | 0x8000) << between;
  }
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(uint32_t{0x3f808000})), 0x3f80);  // tie, even low
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(uint32_t{0x3f818000})), 0x3f82);  // tie, even high
  EXPECT_EQ(FloatToBFloat16(3.4e38f), 0x7f80);                                     // overflows
}

}  // namespace
}  // namespace longhaul::kernels
