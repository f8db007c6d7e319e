#pragma once

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "worker/comm/communicator.h"

namespace longhaul::worker::rank {

// A communicator that knows how long its owner was in Send and Recv: a pipeline stage computes in
// the rest of its time. Owned by the executor thread, as what it passes the calls on to.
class MeteredCommunicator final : public comm::Communicator {
 public:
  // `clock` is borrowed.
  MeteredCommunicator(std::unique_ptr<comm::Communicator> communicator, const Clock& clock)
      : communicator_(std::move(communicator)), clock_(clock) {}

  // In Send and Recv so far: waiting for the peer, and the transfer.
  absl::Duration waited() const { return waited_; }

  int rank() const override { return communicator_->rank(); }
  int size() const override { return communicator_->size(); }
  absl::Status Send(TensorView src, int peer, Stream stream) override {
    const absl::Time begin = clock_.Now();
    const absl::Status status = communicator_->Send(src, peer, stream);
    waited_ += clock_.Now() - begin;
    return status;
  }
  absl::Status Recv(TensorView dst, int peer, Stream stream) override {
    const absl::Time begin = clock_.Now();
    const absl::Status status = communicator_->Recv(dst, peer, stream);
    waited_ += clock_.Now() - begin;
    return status;
  }
  absl::Status Broadcast(TensorView inout, int root, Stream stream) override {
    return communicator_->Broadcast(inout, root, stream);
  }
  absl::Status AllReduceSum(TensorView inout, Stream stream) override {
    return communicator_->AllReduceSum(inout, stream);
  }
  absl::Status Poll() override { return communicator_->Poll(); }
  void Abort() override { communicator_->Abort(); }

 private:
  const std::unique_ptr<comm::Communicator> communicator_;
  const Clock& clock_;
  absl::Duration waited_;
};

}  // namespace longhaul::worker::rank
