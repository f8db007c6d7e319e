#include "common/text/text_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace longhaul::text {

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::ErrnoToStatus(errno, absl::StrCat("opening ", path));
  }
  std::string text;
  while (file && text.size() <= max_bytes) {
    constexpr size_t kReadBytes = size_t{1} << 20;
    const size_t begin = text.size();
    text.resize(begin + kReadBytes);
    file.read(text.data() + begin, kReadBytes);
    text.resize(begin + static_cast<size_t>(file.gcount()));
  }
  if (file.bad()) {
    return absl::UnavailableError(absl::StrCat("reading ", path, ": ", std::strerror(errno)));
  }
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has more than ", max_bytes, " bytes, the limit"));
  }
  return text;
}

}  // namespace longhaul::text
