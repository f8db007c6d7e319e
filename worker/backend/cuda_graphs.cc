#include "worker/backend/cuda_graphs.h"

#include <algorithm>
#include <memory>

#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/backend/cuda_status.h"

namespace longhaul::worker::backend {

absl::Status CudaGraphs::Run(const Key& key, cudaStream_t stream,
                             absl::FunctionRef<absl::Status()> enqueue) {
  if (gave_up_) return enqueue();
  auto found = entries_.find(key);
  if (found == entries_.end()) {
    RETURN_IF_ERROR(Forget(stream));
    RETURN_IF_ERROR(enqueue());
    entries_.emplace(key, Entry{.graph = nullptr, .last_use = ++uses_});
    return absl::OkStatus();
  }
  Entry& entry = found->second;
  entry.last_use = ++uses_;
  if (entry.graph == nullptr) {
    absl::Status enqueued;
    const absl::Status recorded = Record(stream, enqueue, enqueued, entry.graph);
    RETURN_IF_ERROR(enqueued);
    if (!recorded.ok()) {
      LOG(WARNING) << "event=no_cuda_graphs why=\"" << recorded << "\"";
      gave_up_ = true;
      return enqueue();
    }
  }
  return CudaStatus(cudaGraphLaunch(entry.graph.get(), stream), "launching a graph");
}

absl::Status CudaGraphs::Forget(cudaStream_t stream) {
  if (entries_.size() < kMaxGraphs) return absl::OkStatus();
  const auto oldest = std::ranges::min_element(
      entries_, {}, [](const auto& entry) { return entry.second.last_use; });
  // It may be at work.
  if (oldest->second.graph != nullptr) {
    RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream), "work before dropping a graph"));
  }
  entries_.erase(oldest);
  return absl::OkStatus();
}

absl::Status CudaGraphs::Record(cudaStream_t stream, absl::FunctionRef<absl::Status()> enqueue,
                                absl::Status& enqueued, Graph& graph) {
  RETURN_IF_ERROR(CudaStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                             "beginning to record a graph"));
  enqueued = enqueue();
  cudaGraph_t recorded = nullptr;
  // Also after an error: it ends the recording.
  const cudaError_t ended = cudaStreamEndCapture(stream, &recorded);
  const std::unique_ptr<CUgraph_st, void (*)(cudaGraph_t)> owner(
      recorded, [](cudaGraph_t unwanted) { cudaGraphDestroy(unwanted); });
  if (!enqueued.ok()) return absl::OkStatus();
  RETURN_IF_ERROR(CudaStatus(ended, "recording a graph"));
  cudaGraphExec_t instance = nullptr;
  RETURN_IF_ERROR(CudaStatus(cudaGraphInstantiate(&instance, recorded, 0), "making a graph"));
  graph.reset(instance);
  return absl::OkStatus();
}

}  // namespace longhaul::worker::backend
