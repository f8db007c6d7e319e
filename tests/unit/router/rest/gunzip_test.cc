#include "router/rest/gunzip.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <iostream>
#include <random>

#include "tests/testing/status_matchers.h"

namespace longhaul::router::rest {
namespace {

using longhaul::testing::StatusIs;
using ::testing::HasSubstr;

// zlib's own compressor; `window_bits` 31 = gzip, 15 = zlib.
std::string Compress(const std::string& text, int window_bits) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string RandomText(size_t size) {
  const unsigned seed = std::random_device()();
  std::cout << "seed " << seed << std::endl;
  std::mt19937 random(seed);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>('a' + random() % 20);
  return text;
}

TEST(Gunzip, GivesBackWhatWasCompressed) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{262143}, size_t{262144}, size_t{700001}}) {
    const std::string text = RandomText(size);
    for (const int window_bits : {31, 15}) {
      const auto plain = Gunzip(Compress(text, window_bits), size);
      ASSERT_OK(plain) << size;
      EXPECT_TRUE(*plain == text) << size;
    }
  }
}

TEST(Gunzip, MembersAreOneBody) {
  EXPECT_EQ(*Gunzip(Compress("one ", 31) + Compress("two", 31), 100), "one two");
  const std::string empty = Compress("", 31);
  EXPECT_EQ(*Gunzip(empty + Compress("one", 31) + empty + empty, 100), "one");
  // Across the steps in which input and output go.
  std::string all, compressed;
  for (const size_t size : {size_t{262143}, size_t{1}, size_t{300000}, size_t{262144}}) {
    const std::string text = RandomText(size);
    all += text;
    compressed += Compress(text, 31);
  }
  const auto plain = Gunzip(compressed, all.size());
  ASSERT_OK(plain);
  EXPECT_TRUE(*plain == all);
  EXPECT_THAT(Gunzip(compressed, all.size() - 1),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("limit")));
}

TEST(Gunzip, RefusesWhatFollowsTheLastMember) {
  const std::string gzip = Compress("one", 31);
  const std::string zlib = Compress("one", 15);
  for (const std::string& garbage : {std::string("garbage"), std::string(1, '\0'), zlib}) {
    EXPECT_THAT(Gunzip(gzip + gzip + garbage, 100),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("not valid gzip data behind member 2")))
        << garbage;
  }
  EXPECT_THAT(Gunzip(gzip + gzip.substr(0, 12), 100),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("behind member 1: it ends")));
  EXPECT_THAT(Gunzip(zlib + zlib, 100),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("behind the end")));
}

TEST(Gunzip, RefusesMoreThanTheLimitBeforeItIsMade) {
  const std::string bomb = Compress(std::string(50 << 20, 'x'), 31);
  EXPECT_LT(bomb.size(), 60000u);
  EXPECT_THAT(Gunzip(bomb, 1000), StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("1000")));
  const std::string text = RandomText(1000);
  EXPECT_OK(Gunzip(Compress(text, 31), 1000));
  EXPECT_THAT(Gunzip(Compress(text, 31), 999),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("999")));
}

TEST(Gunzip, RefusesDamagedData) {
  const std::string good = Compress(RandomText(5000), 31);
  for (const size_t keep : {size_t{0}, size_t{1}, size_t{10}, good.size() / 2, good.size() - 1}) {
    EXPECT_THAT(Gunzip(good.substr(0, keep), 10000),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("gzip")))
        << keep;
  }
  std::string flipped = good;
  flipped[good.size() / 2] = static_cast<char>(flipped[good.size() / 2] ^ 0x55);
  EXPECT_FALSE(Gunzip(flipped, 10000).ok());
  EXPECT_FALSE(Gunzip("plain text", 10000).ok());
}

}  // namespace
}  // namespace longhaul::router::rest
