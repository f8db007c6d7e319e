#include "worker/rank/rank_device.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/thread_pool.h"
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

absl::StatusOr<RankDevice> MakeRankDevice(const RankConfig& config, const GroupShape& shape) {
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
  if (shape.num_ranks() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tensor-parallel-size is ", shape.tensor_parallel_size(),
                     " and --pipeline-parallel-size ", shape.pipeline_parallel_size(),
                     ", but ranks of --device cuda do not exchange tensors yet: "
                     "set both to 1"));
  }
  device.kv_dtype = backend::KvDType::kBFloat16;
  device.has_own_memory = true;
  ASSIGN_OR_RETURN(device.backend, MakeCuda(config));
  return device;
}

}  // namespace longhaul::worker::rank
