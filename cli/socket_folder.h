#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace longhaul::cli {

// A folder for a group's sockets that only this user can enter: <parent>/longhaul-run-XXXXXX.
// Locked while it is in use and removed at the end; what a killed process left behind (a folder of
// ours that nobody holds locked) is removed by the next Make. Thread-compatible.
class SocketFolder {
 public:
  // kUnavailable if no folder can be made in `parent`, an existing directory.
  static absl::StatusOr<std::unique_ptr<SocketFolder>> Make(const std::string& parent);
  ~SocketFolder();
  SocketFolder(const SocketFolder&) = delete;
  SocketFolder& operator=(const SocketFolder&) = delete;

  const std::string& path() const { return path_; }
  // The address of the socket `name`, as gRPC spells it.
  std::string Socket(const std::string& name) const { return "unix:" + path_ + "/" + name; }

 private:
  SocketFolder(std::string path, int lock_fd);
  const std::string path_;
  const int lock_fd_;  // the folder itself, locked
};

}  // namespace longhaul::cli
