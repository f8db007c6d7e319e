#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "worker/tensor.h"

namespace longhaul::worker::model {

// Where the elements of a model's tensors come from. Knows nothing of how they are laid out or cut.
// Thread-compatible.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // Fills `to`, a matrix on the device, with the elements of a tensor of Qwen2Tensors from
  // (row_begin, col_begin) on, in the type of `to`. They lie within the tensor; a vector is a
  // column.
  virtual absl::Status Fill(const std::string& name, int64_t row_begin, int64_t col_begin,
                            TensorView to) = 0;
};

}  // namespace longhaul::worker::model
