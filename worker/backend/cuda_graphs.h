#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace longhaul::worker::backend {

// Work that is enqueued again and again with the same arguments, launched as one: a CUDA graph.
//
// Launching a decode step's three hundred small kernels one by one takes the host as long as the
// device needs for them. A graph is recorded when its key is seen for the second time: the first
// time runs as it is, so that whatever it allocates or looks up once is there. Owned by one thread;
// its graphs are of one stream.
class CudaGraphs {
 public:
  // All that the work hangs on: addresses, sizes, which kernels.
  using Key = std::vector<uint64_t>;
  // Keys that are remembered; then the one that was used longest ago goes.
  static constexpr size_t kMaxGraphs = 256;

  // Enqueues what `enqueue` enqueues to `stream`, and nowhere else. Where a graph cannot be had (no
  // memory, say) work is enqueued as it is, from then on, and a warning says so. Errors: those of
  // `enqueue`, or of the launch.
  absl::Status Run(const Key& key, cudaStream_t stream, absl::FunctionRef<absl::Status()> enqueue);

 private:
  struct Destroy {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
  };
  using Graph = std::unique_ptr<CUgraphExec_st, Destroy>;

  struct Entry {
    Graph graph;  // null: seen once
    uint64_t last_use = 0;
  };

  // Makes room for one more.
  absl::Status Forget(cudaStream_t stream);
  // `enqueued` is what became of `enqueue`: an error of its own is no failure of recording.
  static absl::Status Record(cudaStream_t stream, absl::FunctionRef<absl::Status()> enqueue,
                             absl::Status& enqueued, Graph& graph);

  std::map<Key, Entry> entries_;
  uint64_t uses_ = 0;
  bool gave_up_ = false;
};

}  // namespace longhaul::worker::backend
