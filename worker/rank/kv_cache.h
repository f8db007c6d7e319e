#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "common/types.h"
#include "worker/backend/backend.h"
#include "worker/backend/device_buffer.h"
#include "worker/tensor.h"

namespace longhaul::worker::rank {

// Keys and values of every block that this rank holds, for the layers of its stage.
//
// Memory is [block][layer]: a block is one contiguous region, so memory is touched as blocks come
// into use, and a block can be moved in one piece. Knows ids only: which sequence uses a block is
// the leader's business. Owned by the executor thread; movable.
class KvCache {
 public:
  // `num_layers` and `num_blocks` > 0. kResourceExhausted names the bytes if they cannot be had.
  static absl::StatusOr<KvCache> Create(backend::Backend& backend, const backend::KvShape& shape,
                                        int32_t num_layers, int32_t num_blocks);

  // Bytes of one block in `num_layers` layers, scale slots included.
  static int64_t BlockBytes(const backend::Backend& backend, const backend::KvShape& shape,
                            int32_t num_layers);

  // The stage's layer `index`, from 0.
  backend::KvLayer Layer(int32_t index) const;

  // The bytes of block `id`, all layers, as one row: for copies.
  TensorView Block(BlockId id) const;

  int64_t block_bytes() const { return layer_bytes_ * num_layers_; }
  int32_t num_blocks() const { return num_blocks_; }
  int64_t bytes() const { return buffer_.bytes(); }

 private:
  KvCache(const backend::KvShape& shape, int32_t num_layers, int32_t num_blocks,
          int64_t layer_bytes, backend::DeviceBuffer buffer);

  backend::KvShape shape_;
  int32_t num_layers_;
  int32_t num_blocks_;
  int64_t layer_bytes_;  // one layer's part of a block
  backend::DeviceBuffer buffer_;
};

}  // namespace longhaul::worker::rank
