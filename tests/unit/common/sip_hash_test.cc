#include "common/sip_hash.h"

#include <gtest/gtest.h>

#include <numeric>
#include <span>
#include <string>
#include <vector>

namespace longhaul {
namespace {

// 00 01 .. (size - 1).
std::vector<uint8_t> Counting(size_t size) {
  std::vector<uint8_t> bytes(size);
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  return bytes;
}

Digest CountingKey() { return {.high = 0x0001020304050607, .low = 0x08090a0b0c0d0e0f}; }

// vectors_sip128 of the authors' reference implementation: key 00 .. 0f, data 00 01 .. of a length.
TEST(SipHasher, AgreesWithThePublishedVectors) {
  const struct {
    size_t size;
    const char* output;
  } kVectors[] = {
      {0, "a3817f04ba25a8e66df67214c7550293"},  {1, "da87c1d86b99af44347659119b22fc45"},
      {2, "8177228da4a45dc7fca38bdef60affe4"},  {7, "a1f1ebbed8dbc153c0b84aa61ff08239"},
      {8, "3b62a9ba6258f5610f83e264f31497b4"},  {15, "5493e99933b0a8117e08ec0f97cfc3d9"},
      {63, "5150d1772f50834a503e069a973fbd7c"},
  };
  for (const auto& vector : kVectors) {
    const std::vector<uint8_t> data = Counting(vector.size);
    SipHasher hasher(CountingKey());
    hasher.Update(data);
    EXPECT_EQ(hasher.Finish().ToString(), vector.output) << vector.size;
    EXPECT_EQ(SipHash128(CountingKey(), std::string(data.begin(), data.end())).ToString(),
              vector.output)
        << vector.size;
  }
}

TEST(SipHasher, DoesNotDependOnHowTheInputIsCut) {
  const std::vector<uint8_t> bytes = Counting(100);
  SipHasher whole({1, 2});
  whole.Update(bytes);
  for (size_t first = 0; first <= 40; ++first) {
    SipHasher cut({1, 2});
    cut.Update(std::span(bytes).first(first));
    cut.Update(std::span(bytes).subspan(first, 17));
    cut.Update(std::span(bytes).subspan(first + 17));
    EXPECT_EQ(cut.Finish(), whole.Finish()) << first;
  }
}

TEST(SipHasher, AWordIsItsBytesWhereverItStands) {
  for (size_t before = 0; before <= 9; ++before) {
    SipHasher words({1, 2});
    words.Update(Counting(before));
    words.UpdateWord(0x8877665544332211);
    SipHasher bytes({1, 2});
    bytes.Update(Counting(before));
    bytes.Update(std::string_view("\x11\x22\x33\x44\x55\x66\x77\x88"));
    EXPECT_EQ(words.Finish(), bytes.Finish()) << before;
  }
}

TEST(SipHasher, GoesOnAfterFinish) {
  SipHasher hasher({});
  hasher.Update(Counting(8));
  const Digest early = hasher.Finish();
  EXPECT_NE(hasher.FinishFixedLength(), early);
  EXPECT_EQ(hasher.Finish(), early);
  hasher.Update(Counting(1));
  EXPECT_NE(hasher.Finish(), early);
}

TEST(SipHasherDeathTest, AFixedLengthIsWholeWords) {
  SipHasher hasher({});
  hasher.Update(Counting(7));
  EXPECT_DEATH(hasher.FinishFixedLength(), "bytes=7");
}

}  // namespace
}  // namespace longhaul
