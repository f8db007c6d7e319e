#include "worker/backend/cuda_graphs.h"

#include "common/status_macros.h"
#include "worker/backend/cuda_memory.h"

namespace longhaul::worker::backend {

absl::Status CudaGraphs::Run(const Key& key, cudaStream_t stream,
                             absl::FunctionRef<absl::Status()> enqueue) {
  const auto found = graphs_.find(key);
  if (found == graphs_.end()) {
    if (graphs_.size() >= kMaxGraphs) {
      // None may be at work when it goes.
      RETURN_IF_ERROR(CudaStatus(cudaStreamSynchronize(stream), "work before dropping graphs"));
      graphs_.clear();
    }
    RETURN_IF_ERROR(enqueue());
    graphs_.emplace(key, nullptr);
    return absl::OkStatus();
  }
  if (found->second == nullptr) {
    RETURN_IF_ERROR(Record(stream, enqueue, found->second));
  }
  return CudaStatus(cudaGraphLaunch(found->second.get(), stream), "launching a graph");
}

absl::Status CudaGraphs::Record(cudaStream_t stream, absl::FunctionRef<absl::Status()> enqueue,
                                Graph& graph) {
  RETURN_IF_ERROR(CudaStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                             "beginning to record a graph"));
  const absl::Status enqueued = enqueue();
  cudaGraph_t recorded = nullptr;
  // Also after an error: it ends the recording.
  const cudaError_t ended = cudaStreamEndCapture(stream, &recorded);
  const std::unique_ptr<CUgraph_st, void (*)(cudaGraph_t)> owner(
      recorded, [](cudaGraph_t unwanted) { cudaGraphDestroy(unwanted); });
  RETURN_IF_ERROR(enqueued) << "recording a graph";
  RETURN_IF_ERROR(CudaStatus(ended, "recording a graph"));
  cudaGraphExec_t instance = nullptr;
  RETURN_IF_ERROR(CudaStatus(cudaGraphInstantiate(&instance, recorded, 0), "making a graph"));
  graph.reset(instance);
  return absl::OkStatus();
}

}  // namespace longhaul::worker::backend
