#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/comm/communicator.h"

namespace longhaul::worker::comm {

// A communicator of CUDA devices as the contract's tests speak to one: tensors lie in host memory
// and calls are complete when they return.
//
// Each call copies to the device, waits for the stream and copies back. What the call is to fill is
// filled with NaNs before, and that nothing behind it was written is checked. A stream that stands
// still for `timeout` ends in Abort, as a rank's leader has it. Device memory is taken once: CUDA
// may make an allocation wait for a peer's kernel. Threads as in Communicator; Poll from any.
class StagedCommunicator final : public Communicator {
 public:
  // Of the device that is current, which `communicator` uses.
  StagedCommunicator(std::unique_ptr<Communicator> communicator, absl::Duration timeout);
  ~StagedCommunicator() override;

  int rank() const override { return communicator_->rank(); }
  int size() const override { return communicator_->size(); }
  absl::Status Send(TensorView src, int peer, Stream stream) override;
  absl::Status Recv(TensorView dst, int peer, Stream stream) override;
  absl::Status Broadcast(TensorView inout, int root, Stream stream) override;
  absl::Status AllReduceSum(TensorView inout, Stream stream) override;
  absl::Status Poll() override { return communicator_->Poll(); }
  void Abort() override { communicator_->Abort(); }

 private:
  enum class Use { kRead, kWrite, kBoth };

  template <typename Call>
  absl::Status Run(const TensorView& host, Use use, const Call& call);
  absl::Status WaitForStream();

  const absl::Duration timeout_;
  std::unique_ptr<Communicator> communicator_;
  int device_ = 0;
  cudaStream_t stream_ = nullptr;
  uint8_t* buffer_ = nullptr;
};

}  // namespace longhaul::worker::comm
