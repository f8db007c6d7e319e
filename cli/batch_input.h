#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "cli/batch_codec.h"
#include "cli/line_reader.h"

namespace longhaul::cli {

// The file of a batch's requests, read once to check it and once to work on it. Lines of white
// space only are passed over. Thread-compatible.
class BatchInput {
 public:
  // `model`: the name that a body without one is given. kUnavailable if the file cannot be opened,
  // kInvalidArgument if it is no regular file.
  static absl::StatusOr<std::unique_ptr<BatchInput>> Open(const std::string& path,
                                                          const std::string& model);
  ~BatchInput();
  BatchInput(const BatchInput&) = delete;
  BatchInput& operator=(const BatchInput&) = delete;

  struct Counts {
    int64_t requests = 0;
    int64_t left = 0;  // not done
  };
  // Holds all custom_ids while it reads. Errors: kInvalidArgument (two lines have the same
  // custom_id, or there is no request), kUnavailable (cannot be read).
  absl::StatusOr<Counts> Count(const std::function<bool(const std::string& custom_id)>& done) const;

  struct Item {
    int64_t line = 0;  // its number
    BatchRequest request;
  };
  // The next request, nullopt after the last one. kUnavailable if reading fails. A line above
  // 64 MiB is a request with a fault.
  absl::StatusOr<std::optional<Item>> Next() { return Next(reader_); }

 private:
  BatchInput(int fd, std::string path, std::string model);
  absl::StatusOr<std::optional<Item>> Next(LineReader& reader) const;

  const int fd_;
  const std::string path_;
  const std::string model_;
  LineReader reader_;
};

}  // namespace longhaul::cli
