#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace longhaul::cli {

// The lines of a file, one after the other; holds one of them and a read-ahead of 256 KiB.
// Thread-compatible.
class LineReader {
 public:
  struct Line {
    int64_t number = 0;      // from 1
    int64_t begin = 0;       // offset of its first byte
    std::string text;        // without the line break; cut to the limit if it is too long
    bool too_long = false;   // above the limit
    bool terminated = true;  // false: the file ends without a line break
  };

  // Reads `fd` from offset 0 without moving its position; it outlives the reader.
  LineReader(int fd, std::string name, size_t max_line_bytes);

  // nullopt at the end of the file. kUnavailable if reading fails.
  absl::StatusOr<std::optional<Line>> Next();

 private:
  const int fd_;
  const std::string name_;
  const size_t max_line_bytes_;
  int64_t number_ = 0;
  int64_t offset_ = 0;  // of the byte after the buffer
  std::string buffer_;  // read ahead
  size_t used_ = 0;     // of the buffer
};

}  // namespace longhaul::cli
