#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/types.h"
#include "worker/leader/saved_cost.h"

namespace longhaul::worker::leader {

// Costs of groups of one model and one shape, in a folder: a small JSON file for each hardware.
// Whatever else is in the folder is left alone; several leaders may share it, the last one that
// saves counts.
//
// A value, thread-compatible; every call does file I/O.
class CostStore {
 public:
  // What costs depend on, besides the hardware. What a unit may hold at most does not matter.
  struct Key {
    Digest model;
    int32_t tensor_parallel_size = 1;
    std::vector<int32_t> stage_layers;  // of each pipeline stage
    std::string kv_dtype;               // "fp32"
    std::string attention;              // "dca"

    bool operator==(const Key&) const = default;
  };

  // `folder` need not exist.
  CostStore(std::string folder, Key key);

  // What was saved under this key. A file that cannot be read, is damaged, of another version or
  // says something impossible is told in the log and left out. At most 64 files are looked at.
  std::vector<SavedCost> Load() const;

  // Replaces what is there for this hardware, as a whole or not at all; makes the folder. Errors
  // name the file: kPermissionDenied, kNotFound, kUnavailable (what the system says).
  absl::Status Save(const SavedCost& cost) const;

 private:
  std::string FileName(const std::string& hardware) const;

  const std::string folder_;
  const Key key_;
};

}  // namespace longhaul::worker::leader
