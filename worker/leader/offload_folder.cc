#include "worker/leader/offload_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace longhaul::worker::leader {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "longhaul-kv-";
constexpr std::string_view kLock = "leader.lock";
// Of making a folder that another leader, just starting, takes for a leftover.
constexpr int kMaxAttempts = 8;

absl::Status Bad(const std::string& dir, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat("kv-offload-dir is ", dir, ": ", why));
}

// What a group puts into its folder: the lock, and "rank3.kv".
bool IsOurs(const fs::directory_entry& entry) {
  if (entry.symlink_status().type() != fs::file_type::regular) return false;
  const std::string name = entry.path().filename().string();
  if (name == kLock) return true;
  constexpr std::string_view kHead = "rank";
  constexpr std::string_view kTail = ".kv";
  if (name.size() <= kHead.size() + kTail.size() || !name.starts_with(kHead) ||
      !name.ends_with(kTail)) {
    return false;
  }
  return std::all_of(name.begin() + kHead.size(), name.end() - kTail.size(),
                     [](char c) { return c >= '0' && c <= '9'; });
}

// Removes the folder of a leader that is gone. One that holds anything else stays as it is.
absl::Status RemoveFolder(const fs::path& folder) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (!IsOurs(entry)) {
      return absl::FailedPreconditionError(absl::StrCat("it holds ", entry.path().string()));
    }
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().filename() != kLock) fs::remove(entry.path(), error);
  }
  fs::remove(folder / kLock, error);
  fs::remove(folder, error);
  return error ? absl::UnavailableError(error.message()) : absl::OkStatus();
}

// Locks the folder's lock file, which `flags` may create. -1 if that is not possible: another
// leader has it, or has removed it meanwhile.
int Lock(const fs::path& folder, int flags) {
  const std::string path = folder / kLock;
  const int lock = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
  if (lock < 0) return -1;
  struct stat ours = {};
  struct stat there = {};
  if (flock(lock, LOCK_EX | LOCK_NB) == 0 && fstat(lock, &ours) == 0 &&
      stat(path.c_str(), &there) == 0 && ours.st_ino == there.st_ino) {
    return lock;
  }
  close(lock);
  return -1;
}

void RemoveLeftovers(const std::string& dir) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, error)) {
    if (!entry.path().filename().string().starts_with(kPrefix)) continue;
    if (entry.symlink_status().type() != fs::file_type::directory) continue;
    const int lock = Lock(entry.path(), /*flags=*/0);
    if (lock >= 0) {
      const absl::Status removed = RemoveFolder(entry.path());
      LOG(INFO) << "event=offload_leftover folder=" << entry.path() << " removed=\"" << removed
                << "\"";
      close(lock);
    } else if (fs::is_empty(entry.path(), error) && !error) {
      fs::remove(entry.path(), error);  // its leader died before it had a lock
    }
  }
}

absl::Status CheckSpace(const std::string& dir, double gib, int32_t ranks) {
  struct statvfs disk = {};
  if (statvfs(dir.c_str(), &disk) != 0) return Bad(dir, std::strerror(errno));
  constexpr double kGib = int64_t{1} << 30;
  const double free_gib =
      static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize) / kGib;
  if (gib * ranks <= free_gib) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "kv-offload-disk-gib is %g for each of %d ranks, free in %s are %.1f GiB: lower it, or free "
      "some",
      gib, ranks, dir, free_gib));
}

}  // namespace

absl::StatusOr<std::unique_ptr<OffloadFolder>> OffloadFolder::Create(const std::string& dir,
                                                                     double gib, int32_t ranks) {
  std::error_code error;
  if (!fs::is_directory(dir, error)) return Bad(dir, "no such folder");
  RemoveLeftovers(dir);
  RETURN_IF_ERROR(CheckSpace(dir, gib, ranks));
  for (int i = 0; i < kMaxAttempts; ++i) {
    std::string path = fs::path(dir) / absl::StrCat(std::string(kPrefix), "XXXXXX");
    if (mkdtemp(path.data()) == nullptr) return Bad(dir, std::strerror(errno));
    const int lock = Lock(path, O_CREAT);
    if (lock >= 0) return std::unique_ptr<OffloadFolder>(new OffloadFolder(std::move(path), lock));
    fs::remove(path, error);
  }
  return Bad(dir, "cannot lock a folder of our own there");
}

OffloadFolder::OffloadFolder(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}

OffloadFolder::~OffloadFolder() {
  const absl::Status removed = RemoveFolder(path_);
  if (!removed.ok()) {
    LOG(WARNING) << "event=offload_folder_kept folder=" << path_ << " why=\"" << removed << "\"";
  }
  close(lock_);
}

}  // namespace longhaul::worker::leader
