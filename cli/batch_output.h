#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace longhaul::cli {

// The file of a batch's results: what an earlier run left of it, and the end where results are
// added. Holds the custom_ids of the results that stand, not the results. Thread-compatible.
//
// One process at a time has the file (flock). It is changed in two ways only: a whole line is added
// and on disk before Append returns; or, in Open, lines that do not stand are left out by renaming
// a new file over it, so that a custom_id is there once, at every moment.
class BatchOutput {
 public:
  // Opens or makes the file. A result stands if asking again would give the same (BatchResultInfo::
  // final); others go, and so does a last line without its end. Errors: kFailedPrecondition
  // (another process has it), kInvalidArgument (no regular file, or a line is no result: then
  // nothing is changed), kUnavailable (cannot be opened, read or written).
  static absl::StatusOr<std::unique_ptr<BatchOutput>> Open(const std::string& path);
  ~BatchOutput();
  BatchOutput(const BatchOutput&) = delete;
  BatchOutput& operator=(const BatchOutput&) = delete;

  // Of the results that Open found: whether the one of `custom_id` is a success; nullopt if none
  // stands.
  std::optional<bool> Succeeded(const std::string& custom_id) const;

  // Adds one line (with its line break) and returns when it is on disk. kUnavailable: the file is
  // as it was, unless that fails, too.
  absl::Status Append(std::string_view line);

 private:
  explicit BatchOutput(std::string path) : path_(std::move(path)) {}
  absl::Status OpenLocked();
  // Finds out what stands; true if all lines do.
  absl::StatusOr<bool> Scan();
  absl::Status Rewrite();

  const std::string path_;                          // without links
  int fd_ = -1;                                     // locked
  int64_t size_ = 0;                                // bytes of whole lines
  std::unordered_map<std::string, bool> standing_;  // custom_id to success
};

}  // namespace longhaul::cli
