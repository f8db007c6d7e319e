#include "worker/rank/rank_device.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/thread_pool.h"
#include "common/types.h"
#include "worker/backend/cpu_backend.h"
#ifdef LONGHAUL_HAVE_CUDA
#include "worker/backend/cuda_backend.h"
#endif

namespace longhaul::worker::rank {
namespace {

int ThreadsOf(const RankConfig& config) {
  if (config.threads > 0) return config.threads;
  return std::max(1, ThreadPool::UsableCores() / config.ranks_on_host);
}

absl::StatusOr<std::unique_ptr<backend::Backend>> MakeCuda(const RankConfig& config) {
#ifdef LONGHAUL_HAVE_CUDA
  auto backend = backend::MakeCudaBackend(config.cuda_device, {.graphs = !config.enforce_eager});
  RETURN_IF_ERROR(backend) << "--device cuda, --cuda-device " << config.cuda_device;
  return backend;
#else
  return absl::InvalidArgumentError(
      absl::StrCat("--device is ", config.device, ", but this program was built without CUDA"));
#endif
}

}  // namespace

absl::StatusOr<RankDevice> MakeRankDevice(const RankConfig& config) {
  RankDevice device;
  if (config.device == "cpu") {
    device.kv_dtype =
        config.kv_cache_dtype == "bf16" ? backend::KvDType::kBFloat16 : backend::KvDType::kFloat32;
    device.backend = backend::MakeCpuBackend(ThreadsOf(config));
    return device;
  }
  if (config.kv_cache_dtype == "fp32") {
    return absl::InvalidArgumentError(
        "--kv-cache-dtype is fp32, the CUDA backend has bf16 alone: leave it at auto");
  }
  device.kv_dtype = backend::KvDType::kBFloat16;
  device.has_own_memory = true;
  ASSIGN_OR_RETURN(device.backend, MakeCuda(config));
  return device;
}

absl::Status CheckCudaModel(const ModelConfig& model, const GroupShape& shape) {
  const auto lacks = [](const char* property, int64_t value, const char* has) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: ", property, " is ", value,
                                                   ", kernels of --device cuda have ", has));
  };
  const int32_t group = model.num_heads / model.num_kv_heads;
  if (model.head_dim != 64 && model.head_dim != 128) {
    return lacks("head_dim", model.head_dim, "64 and 128");
  }
  if (group > 16) return lacks("num_attention_heads / num_key_value_heads", group, "at most 16");
  if (model.hidden_size % 8 != 0 || model.hidden_size > 8192) {
    return lacks("hidden_size", model.hidden_size, "multiples of 8 up to 8,192");
  }
  if (model.vocab_size > 524'288) return lacks("vocab_size", model.vocab_size, "at most 524,288");
  if (model.dual_chunk.has_value() && model.dual_chunk->chunk_len() % kKvBlockTokens != 0) {
    return lacks("chunk_size - local_size", model.dual_chunk->chunk_len(), "multiples of 256");
  }
  // A shard's part of what is split.
  const int32_t shards = shape.tensor_parallel_size();
  const std::string each = shards == 1 ? "" : absl::StrCat(" / --tensor-parallel-size ", shards);
  for (const auto& [property, size] : {std::pair("intermediate_size", model.intermediate_size),
                                       std::pair("vocab_size", model.vocab_size)}) {
    if (size % (int64_t{8} * shards) != 0) {
      return lacks(absl::StrCat(property, each).c_str(), size / shards, "multiples of 8");
    }
  }
  return absl::OkStatus();
}

}  // namespace longhaul::worker::rank
