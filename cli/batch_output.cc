#include "cli/batch_output.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/batch_codec.h"
#include "cli/line_reader.h"
#include "common/status_macros.h"

namespace longhaul::cli {
namespace {

// An answer may be much longer than its request: choices, log probabilities.
constexpr size_t kMaxResultBytes = size_t{1} << 30;
constexpr int kOpenAttempts = 10;

absl::Status Failed(const char* what, const std::string& path) {
  return absl::UnavailableError(absl::StrCat("cannot ", what, " ", path, ": ", strerror(errno)));
}

absl::Status WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t size = write(fd, bytes.data(), bytes.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return Failed("write to", path);
    bytes.remove_prefix(static_cast<size_t>(size));
  }
  return absl::OkStatus();
}

// A name that is new or goes to another file is on disk when its folder is.
absl::Status SyncFolderOf(const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  if (folder.empty()) folder = ".";
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Failed("open", folder);
  const absl::Status status = fsync(fd) == 0 ? absl::OkStatus() : Failed("sync", folder);
  close(fd);
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BatchOutput>> BatchOutput::Open(const std::string& path) {
  std::error_code error;
  // A link stays one when the file that it names is replaced.
  const std::filesystem::path real = std::filesystem::weakly_canonical(path, error);
  std::unique_ptr<BatchOutput> output(new BatchOutput(error ? path : real.string()));
  RETURN_IF_ERROR(output->OpenLocked());
  ASSIGN_OR_RETURN(const bool all_stand, output->Scan());
  if (!all_stand) {
    RETURN_IF_ERROR(output->Rewrite());
  }
  RETURN_IF_ERROR(SyncFolderOf(output->path_));
  return output;
}

std::optional<bool> BatchOutput::Succeeded(const std::string& custom_id) const {
  const auto found = standing_.find(custom_id);
  if (found == standing_.end()) return std::nullopt;
  return found->second;
}

BatchOutput::~BatchOutput() {
  if (fd_ >= 0) close(fd_);
}

absl::Status BatchOutput::OpenLocked() {
  for (int attempt = 0; attempt < kOpenAttempts; attempt++) {
    fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0666);
    if (fd_ < 0) return Failed("open", path_);
    struct stat opened {};
    struct stat named {};
    if (fstat(fd_, &opened) != 0) return Failed("look at", path_);
    if (!S_ISREG(opened.st_mode)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_, " is no regular file: results are kept in one to resume from"));
    }
    if (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return Failed("lock", path_);
      return absl::FailedPreconditionError(
          absl::StrCat("another process writes to ", path_, "; wait for it or stop it"));
    }
    // A run that ended in between may have put a new file in the place of the one we opened.
    if (stat(path_.c_str(), &named) == 0 && named.st_ino == opened.st_ino &&
        named.st_dev == opened.st_dev) {
      return absl::OkStatus();
    }
    close(std::exchange(fd_, -1));
  }
  return absl::UnavailableError(absl::StrCat(path_, " is replaced again and again"));
}

absl::StatusOr<bool> BatchOutput::Scan() {
  LineReader reader(fd_, path_, kMaxResultBytes);
  bool all_stand = true;
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<LineReader::Line> line, reader.Next());
    if (!line.has_value()) return all_stand;
    const auto no_result = [&](std::string_view why) {
      return absl::InvalidArgumentError(absl::StrCat(path_, " line ", line->number,
                                                     " is no result of a batch (", std::string(why),
                                                     "); it is left as it is"));
    };
    if (line->too_long) return no_result(absl::StrCat("over ", kMaxResultBytes, " bytes"));
    if (!line->terminated) {
      if (!MayBeTornResult(line->text)) return no_result("the file ends within it");
      return false;
    }
    const auto info = DecodeBatchResult(line->text);
    if (!info.ok()) {
      return no_result({info.status().message().data(), info.status().message().size()});
    }
    // Of two results that stand, the first.
    all_stand &= info->final && standing_.emplace(*info->custom_id, info->succeeded).second;
    size_ = line->begin + static_cast<int64_t>(line->text.size()) + 1;
  }
}

absl::Status BatchOutput::Rewrite() {
  const std::filesystem::path path(path_);
  const std::string next =
      (path.parent_path() / ("." + path.filename().string() + ".longhaul")).string();
  // What stands there is of a run that was killed at this point; the lock keeps living ones out.
  const int fd = open(next.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);
  if (fd < 0) return Failed("make", next);
  const absl::Status written = [&]() -> absl::Status {
    struct stat old {};
    if (fstat(fd_, &old) != 0 || fchmod(fd, old.st_mode & 07777) != 0) {
      return Failed("set the mode of", next);
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) return Failed("lock", next);
    LineReader reader(fd_, path_, kMaxResultBytes);
    std::unordered_set<std::string> copied;
    size_ = 0;
    while (true) {
      ASSIGN_OR_RETURN(std::optional<LineReader::Line> line, reader.Next());
      if (!line.has_value() || !line->terminated) break;
      ASSIGN_OR_RETURN(const BatchResultInfo info, DecodeBatchResult(line->text));
      if (!info.final || !copied.insert(*info.custom_id).second) continue;
      line->text += '\n';
      RETURN_IF_ERROR(WriteAll(fd, line->text, next));
      size_ += static_cast<int64_t>(line->text.size());
    }
    if (fsync(fd) != 0) return Failed("sync", next);
    if (rename(next.c_str(), path_.c_str()) != 0) return Failed("replace", path_);
    return absl::OkStatus();
  }();
  if (!written.ok()) {
    close(fd);
    unlink(next.c_str());
    return written;
  }
  // Locked before it took the name, so at no moment is the file free.
  close(std::exchange(fd_, fd));
  return absl::OkStatus();
}

absl::Status BatchOutput::Append(std::string_view line) {
  absl::Status status = WriteAll(fd_, line, path_);
  if (status.ok() && fdatasync(fd_) != 0) status = Failed("sync", path_);
  if (status.ok()) {
    size_ += static_cast<int64_t>(line.size());
    return status;
  }
  // A part of a line must not stand before the next one.
  if (ftruncate(fd_, size_) != 0) {
    return absl::Status(status.code(), absl::StrCat(status.message(), "; then ",
                                                    Failed("shorten", path_).message()));
  }
  return status;
}

}  // namespace longhaul::cli
