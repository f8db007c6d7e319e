// Compressed bodies: what zlib compresses comes back, whole or not at all, and never above the
// limit.
#include <zlib.h>

#include <string>
#include <string_view>

#include "common/logging.h"
#include "router/rest/gunzip.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"

namespace longhaul::router::rest {
namespace {

constexpr size_t kLimit = 1 << 16;

std::string Compress(std::string_view plain, bool is_gzip) {
  z_stream stream = {};
  CHECK(deflateInit2(&stream, 1, Z_DEFLATED, MAX_WBITS + (is_gzip ? 16 : 0), 8,
                     Z_DEFAULT_STRATEGY) == Z_OK);
  std::string compressed(deflateBound(&stream, plain.size()) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(plain.data()));
  stream.avail_in = static_cast<uInt>(plain.size());
  stream.next_out = reinterpret_cast<Bytef*>(compressed.data());
  stream.avail_out = static_cast<uInt>(compressed.size());
  CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  compressed.resize(stream.total_out);
  deflateEnd(&stream);
  return compressed;
}

void CheckForeign(std::string_view bytes) {
  const auto plain = Gunzip(bytes, kLimit);
  if (plain.ok()) {
    CHECK(plain->size() <= kLimit) << plain->size();
  } else {
    CHECK(absl::IsInvalidArgument(plain.status()) || absl::IsOutOfRange(plain.status()))
        << plain.status();
  }
}

void CheckRoundTrip(std::string_view plain, bool is_gzip, size_t cut) {
  std::string compressed = Compress(plain.substr(0, cut), is_gzip);
  // Only gzip has members.
  if (is_gzip) {
    compressed += Compress(plain.substr(std::min(cut, plain.size())), is_gzip);
  } else {
    plain = plain.substr(0, cut);
  }
  const auto back = Gunzip(compressed, plain.size());
  CHECK(back.ok()) << back.status();
  CHECK(*back == plain);
  if (!plain.empty()) CHECK(absl::IsOutOfRange(Gunzip(compressed, plain.size() - 1).status()));
  const auto part = Gunzip(std::string_view(compressed).substr(0, compressed.size() - 1), kLimit);
  CHECK(absl::IsInvalidArgument(part.status())) << part.status();
}

}  // namespace
}  // namespace longhaul::router::rest

// First byte: Z and G compress the rest, in two members after a second byte; else it is compressed.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longhaul::fuzz::FuzzInput input(data, size);
  const uint8_t mode = input.Byte();
  if (mode == 'Z' || mode == 'G') {
    const size_t cut = input.Byte();
    longhaul::router::rest::CheckRoundTrip(input.Rest(), mode == 'G', cut);
  } else {
    longhaul::router::rest::CheckForeign(input.Rest());
  }
  return 0;
}
