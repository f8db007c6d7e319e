#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/model_config.h"
#include "worker/backend/backend.h"
#include "worker/group_shape.h"
#include "worker/rank/rank_config.h"

namespace longhaul::worker::rank {

// What a rank computes on, as its settings say.
struct RankDevice {
  std::unique_ptr<backend::Backend> backend;
  backend::KvDType kv_dtype = backend::KvDType::kFloat32;
  // Whether the backend's memory is another than the host's, and this rank's alone.
  bool has_own_memory = false;
};

// Errors: kInvalidArgument, naming the setting, for what the device or this build does not have;
// those of MakeCudaBackend.
absl::StatusOr<RankDevice> MakeRankDevice(const RankConfig& config);

// Whether the kernels of --device cuda have what every shard of the model needs. Errors:
// kInvalidArgument, naming the property of config.json.
absl::Status CheckCudaModel(const ModelConfig& model, const GroupShape& shape);

}  // namespace longhaul::worker::rank
