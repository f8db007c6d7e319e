#include "worker/rank/kv_cache.h"

#include <utility>

#include "common/logging.h"
#include "common/status_macros.h"

namespace longhaul::worker::rank {

KvCache::KvCache(const backend::KvShape& shape, int32_t num_layers, int32_t num_blocks,
                 int64_t layer_bytes, backend::DeviceBuffer buffer)
    : shape_(shape),
      num_layers_(num_layers),
      num_blocks_(num_blocks),
      layer_bytes_(layer_bytes),
      buffer_(std::move(buffer)) {}

int64_t KvCache::BlockBytes(const backend::Backend& backend, const backend::KvShape& shape,
                            int32_t num_layers) {
  return backend.KvLayerBlockBytes(shape) * num_layers;
}

absl::StatusOr<KvCache> KvCache::Create(backend::Backend& backend, const backend::KvShape& shape,
                                        int32_t num_layers, int32_t num_blocks) {
  CHECK(num_layers > 0 && num_blocks > 0) << "layers=" << num_layers << " blocks=" << num_blocks;
  auto buffer = backend.Allocate(BlockBytes(backend, shape, num_layers) * num_blocks);
  RETURN_IF_ERROR(buffer) << "KV cache of " << num_blocks << " blocks in " << num_layers
                          << " layers (kv-cache-gib)";
  return KvCache(shape, num_layers, num_blocks, backend.KvLayerBlockBytes(shape),
                 *std::move(buffer));
}

backend::KvLayer KvCache::Layer(int32_t index) const {
  CHECK(index >= 0 && index < num_layers_) << "layer=" << index << " of " << num_layers_;
  return {.base = buffer_.data() + index * layer_bytes_,
          .block_stride_bytes = layer_bytes_ * num_layers_,
          .num_blocks = num_blocks_,
          .shape = shape_};
}

TensorView KvCache::Block(BlockId id) const {
  CHECK(id >= 0 && id < num_blocks_) << "block=" << id << " of " << num_blocks_;
  const int64_t element = DTypeBytes(DType::kFloat32);
  CHECK(block_bytes() % element == 0) << "block_bytes=" << block_bytes();
  return {.data = buffer_.data() + id * block_bytes(),
          .dtype = DType::kFloat32,
          .rows = 1,
          .cols = block_bytes() / element};
}

}  // namespace longhaul::worker::rank
