#include "cli/socket_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"

namespace longhaul::cli {
namespace {

constexpr std::string_view kPrefix = "longhaul-run-";
constexpr size_t kNameLength = kPrefix.size() + 6;
constexpr int kMakeAttempts = 10;

// Opens and locks a folder of this user; -1 if it is locked, gone or another's.
int LockFolder(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -1;
  struct stat opened {};
  struct stat named {};
  // The name may have gone to its cleaner between open and lock.
  if (fstat(fd, &opened) == 0 && opened.st_uid == geteuid() && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
      lstat(path.c_str(), &named) == 0 && named.st_ino == opened.st_ino) {
    return fd;
  }
  close(fd);
  return -1;
}

// A folder holds sockets and nothing else; anything else in it means that it is not one of these.
bool HoldsSocketsOnly(const std::string& path) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->symlink_status(error).type() != std::filesystem::file_type::socket) return false;
  }
  return !error;
}

void RemoveStale(const std::string& parent) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(parent, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.size() != kNameLength || !name.starts_with(kPrefix)) continue;
    const int fd = LockFolder(entry->path().string());
    if (fd < 0) continue;
    std::error_code ignored;  // the next one to start tries again
    if (HoldsSocketsOnly(entry->path().string())) {
      std::filesystem::remove_all(entry->path(), ignored);
    }
    close(fd);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<SocketFolder>> SocketFolder::Make(const std::string& parent) {
  RemoveStale(parent);
  std::string reason;
  // A folder that another starting process took for stale before it was locked is made anew.
  for (int attempt = 0; attempt < kMakeAttempts; attempt++) {
    std::string path = parent + "/" + std::string(kPrefix) + "XXXXXX";
    if (mkdtemp(path.data()) == nullptr) {
      reason = strerror(errno);
      break;
    }
    const int fd = LockFolder(path);
    if (fd >= 0) return std::unique_ptr<SocketFolder>(new SocketFolder(std::move(path), fd));
    reason = "it is taken away each time";
  }
  return absl::UnavailableError(
      absl::StrCat("cannot make a folder for sockets in ", parent, ": ", reason));
}

SocketFolder::SocketFolder(std::string path, int lock_fd)
    : path_(std::move(path)), lock_fd_(lock_fd) {}

SocketFolder::~SocketFolder() {
  std::error_code ignored;  // left behind, it is removed by the next one to start
  std::filesystem::remove_all(path_, ignored);
  close(lock_fd_);
}

}  // namespace longhaul::cli
