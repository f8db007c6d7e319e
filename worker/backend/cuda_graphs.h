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
  static constexpr size_t kMaxGraphs = 64;  // then all are dropped and recorded anew

  // Enqueues what `enqueue` enqueues to `stream`, and nowhere else. Errors: those of `enqueue`, or
  // of recording.
  absl::Status Run(const Key& key, cudaStream_t stream, absl::FunctionRef<absl::Status()> enqueue);

  size_t size() const { return graphs_.size(); }

 private:
  struct Destroy {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
  };
  using Graph = std::unique_ptr<CUgraphExec_st, Destroy>;

  static absl::Status Record(cudaStream_t stream, absl::FunctionRef<absl::Status()> enqueue,
                             Graph& graph);

  std::map<Key, Graph> graphs_;  // null: seen once
};

}  // namespace longhaul::worker::backend
