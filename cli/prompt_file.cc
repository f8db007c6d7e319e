#include "cli/prompt_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/text/utf8.h"

namespace longhaul::cli {
namespace {

constexpr size_t kMaxBytes = size_t{64} << 20;

// Reads to the end, but no more than just above the limit.
absl::StatusOr<std::string> ReadAll(int fd, const std::string& name) {
  std::string text;
  std::array<char, size_t{256} << 10> piece;
  while (text.size() <= kMaxBytes) {
    const ssize_t size = read(fd, piece.data(), piece.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) {
      return absl::NotFoundError(absl::StrCat("cannot read ", name, ": ", strerror(errno)));
    }
    if (size == 0) break;
    text.append(piece.data(), static_cast<size_t>(size));
  }
  return text;
}

}  // namespace

absl::StatusOr<std::string> ReadPromptFile(const std::string& path) {
  const bool is_stdin = path == "-";
  const std::string name = is_stdin ? "standard input" : path;
  const int fd = is_stdin ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return absl::NotFoundError(absl::StrCat("cannot open ", name, ": ", strerror(errno)));
  }
  absl::StatusOr<std::string> bytes = ReadAll(fd, name);
  if (!is_stdin) close(fd);
  if (!bytes.ok()) return bytes;
  if (bytes->empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt in ", name, " is empty"));
  }
  if (bytes->size() > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt in ", name, " is over ", kMaxBytes, " bytes"));
  }
  if (const size_t offset = text::FindInvalidUtf8(*bytes); offset != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt in ", name, " is not UTF-8: byte 0x",
                     absl::Hex(static_cast<unsigned char>((*bytes)[offset]), absl::kZeroPad2),
                     " at offset ", offset));
  }
  return bytes;
}

}  // namespace longhaul::cli
