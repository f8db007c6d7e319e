#include "router/rest/gunzip.h"

#include <zlib.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace longhaul::router::rest {
namespace {

// zlib's way to say which formats it takes.
constexpr int kGzipOrZlib = MAX_WBITS + 32;
constexpr int kGzipOnly = MAX_WBITS + 16;

// Frees zlib's state on every way out.
class Inflater {
 public:
  Inflater() { ready_ = inflateInit2(&stream_, kGzipOrZlib) == Z_OK; }
  ~Inflater() {
    if (ready_) inflateEnd(&stream_);
  }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  bool ready() const { return ready_; }
  z_stream& stream() { return stream_; }

 private:
  z_stream stream_ = {};
  bool ready_ = false;
};

constexpr size_t kStepBytes = size_t{256} * 1024;

}  // namespace

absl::StatusOr<std::string> Gunzip(std::string_view data, size_t limit_bytes) {
  Inflater inflater;
  if (!inflater.ready()) return absl::ResourceExhaustedError("no memory to decompress the body");
  z_stream& stream = inflater.stream();
  std::string output;
  size_t written = 0;
  const bool is_gzip = data.starts_with('\x1f');
  int64_t num_members = 0;
  // zlib counts in 32 bits: input and output go in steps.
  while (true) {
    if (stream.avail_in == 0 && !data.empty()) {
      const size_t step = std::min(data.size(), kStepBytes);
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
      stream.avail_in = static_cast<uInt>(step);
      data.remove_prefix(step);
    }
    // One byte more than the limit may be written, which proves that it is exceeded.
    const size_t room = std::min(kStepBytes, limit_bytes + 1 - written);
    output.resize(written + room);
    stream.next_out = reinterpret_cast<Bytef*>(output.data() + written);
    stream.avail_out = static_cast<uInt>(room);
    const int result = inflate(&stream, Z_NO_FLUSH);
    written += room - stream.avail_out;
    if (written > limit_bytes) {
      return absl::OutOfRangeError(absl::StrCat(
          "the decompressed body is larger than the limit of ", limit_bytes, " bytes"));
    }
    const bool input_over = stream.avail_in == 0 && data.empty();
    if (result == Z_STREAM_END) {
      num_members++;
      if (input_over) break;
      if (!is_gzip) {
        return absl::InvalidArgumentError("the body goes on behind the end of its zlib data");
      }
      if (inflateReset2(&stream, kGzipOnly) != Z_OK) {
        return absl::InternalError("zlib could not be reset");
      }
    } else if (result != Z_OK || (input_over && stream.avail_out != 0)) {
      const std::string where = num_members > 0 ? absl::StrCat(" behind member ", num_members) : "";
      return absl::InvalidArgumentError(
          absl::StrCat("the body is not valid gzip data", where, ": ",
                       stream.msg != nullptr ? stream.msg : "it ends too early"));
    }
  }
  output.resize(written);
  return output;
}

}  // namespace longhaul::router::rest
