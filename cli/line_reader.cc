#include "cli/line_reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace longhaul::cli {
namespace {

constexpr size_t kReadAheadBytes = size_t{256} << 10;

}  // namespace

LineReader::LineReader(int fd, std::string name, size_t max_line_bytes)
    : fd_(fd), name_(std::move(name)), max_line_bytes_(max_line_bytes) {}

absl::StatusOr<std::optional<LineReader::Line>> LineReader::Next() {
  Line line{.number = number_ + 1,
            .begin = offset_ - static_cast<int64_t>(buffer_.size() - used_),
            .text = {},
            .terminated = false};
  bool any = false;
  while (!line.terminated) {
    if (used_ == buffer_.size()) {
      buffer_.resize(kReadAheadBytes);
      used_ = 0;
      ssize_t size = 0;
      do {
        size = pread(fd_, buffer_.data(), buffer_.size(), offset_);
      } while (size < 0 && errno == EINTR);
      buffer_.resize(static_cast<size_t>(std::max<ssize_t>(size, 0)));
      if (size < 0) {
        return absl::UnavailableError(
            absl::StrCat("cannot read ", name_, " at ", offset_, ": ", strerror(errno)));
      }
      offset_ += size;
      if (size == 0) break;
    }
    any = true;
    const std::string_view rest = std::string_view(buffer_).substr(used_);
    const size_t end = rest.find('\n');
    const std::string_view part = rest.substr(0, end);
    const size_t room = max_line_bytes_ - line.text.size();
    line.text += part.substr(0, room);
    line.too_long |= part.size() > room;
    line.terminated = end != std::string_view::npos;
    used_ += part.size() + (line.terminated ? 1 : 0);
  }
  if (!any) return std::nullopt;
  number_++;
  return line;
}

}  // namespace longhaul::cli
