#include "worker/model/sip_hash.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

namespace longhaul::worker::model {
namespace {

// The published vectors: key 00 01 .. 0f, input 00 01 .. (n - 1), output bytes as hexadecimal.
constexpr uint64_t kKey0 = 0x0706050403020100;
constexpr uint64_t kKey1 = 0x0f0e0d0c0b0a0908;

std::vector<uint8_t> Input(size_t size) {
  std::vector<uint8_t> bytes(size);
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  return bytes;
}

uint64_t BigEndian(const char* hex) { return std::stoull(hex, nullptr, 16); }

TEST(SipHash128, MatchesThePublishedVectors) {
  const struct {
    size_t size;
    const char* first;   // output bytes 0..7
    const char* second;  // 8..15
  } kVectors[] = {
      {0, "a3817f04ba25a8e6", "6df67214c7550293"},  {1, "da87c1d86b99af44", "347659119b22fc45"},
      {7, "a1f1ebbed8dbc153", "c0b84aa61ff08239"},  {8, "3b62a9ba6258f561", "0f83e264f31497b4"},
      {15, "5493e99933b0a811", "7e08ec0f97cfc3d9"}, {63, "5150d1772f50834a", "503e069a973fbd7c"},
  };
  for (const auto& vector : kVectors) {
    SipHash128 hash(kKey0, kKey1);
    hash.Update(Input(vector.size));
    const Digest digest = hash.Finish();
    EXPECT_EQ(__builtin_bswap64(digest.high), BigEndian(vector.first)) << vector.size;
    EXPECT_EQ(__builtin_bswap64(digest.low), BigEndian(vector.second)) << vector.size;
  }
}

TEST(SipHash128, DoesNotDependOnHowTheInputIsCut) {
  const std::vector<uint8_t> bytes = Input(100);
  SipHash128 whole(1, 2);
  whole.Update(bytes);
  for (size_t first = 0; first <= 40; ++first) {
    SipHash128 cut(1, 2);
    cut.Update(std::span(bytes).first(first));
    cut.Update(std::span(bytes).subspan(first, 17));
    cut.Update(std::span(bytes).subspan(first + 17));
    EXPECT_EQ(cut.Finish(), whole.Finish()) << first;
  }
}

TEST(SipHash128, GoesOnAfterFinish) {
  SipHash128 hash(0, 0);
  hash.Update(Input(3));
  const Digest early = hash.Finish();
  EXPECT_EQ(hash.Finish(), early);
  hash.Update(Input(1));
  EXPECT_NE(hash.Finish(), early);
}

}  // namespace
}  // namespace longhaul::worker::model
