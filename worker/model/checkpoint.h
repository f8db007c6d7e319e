#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/safetensors.h"

namespace longhaul::worker::model {

// The tensors of a Hugging Face model directory: those of the files that
// model.safetensors.index.json names, or of a single model.safetensors.
//
// Knows nothing of what the tensors mean (see qwen2_tensors.h). Immutable after Open and
// thread-safe; views live as long as the object.
class Checkpoint {
 public:
  // Errors name file and tensor: kNotFound (no such file), kInvalidArgument (a malformed file, or
  // an index that disagrees with its files: a tensor that is missing, unlisted or in two files).
  static absl::StatusOr<Checkpoint> Open(const std::string& model_dir);

  struct Entry {
    const SafetensorsFile* file;
    const StoredTensor* tensor;
  };
  // By name, ascending.
  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }

  // What messages call the whole: the index or the one file.
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace longhaul::worker::model
