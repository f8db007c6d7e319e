#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace longhaul::worker::leader {

// A folder for the files that a group's ranks keep KV blocks in, of this leader's life: ranks that
// are started anew find their blocks, another leader's never do. Removed with the object.
//
// A lock tells the folders of living leaders from those that dead ones left behind. Such a leftover
// is removed, if it holds nothing but what a group puts there. Thread-compatible.
class OffloadFolder {
 public:
  // Makes a folder in `dir`, after removing leftovers there. Errors: kInvalidArgument, naming
  // kv-offload-dir (no folder, not writable) or kv-offload-disk-gib (`gib` for each of `ranks` is
  // more than the disk has free).
  static absl::StatusOr<std::unique_ptr<OffloadFolder>> Create(const std::string& dir, double gib,
                                                               int32_t ranks);
  // The ranks are gone.
  ~OffloadFolder();
  OffloadFolder(const OffloadFolder&) = delete;
  OffloadFolder& operator=(const OffloadFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  OffloadFolder(std::string path, int lock);

  const std::string path_;
  const int lock_;  // a file, open and locked
};

}  // namespace longhaul::worker::leader
