#include "tests/unit/worker/comm/staged_communicator.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace longhaul::worker::comm {
namespace {

constexpr size_t kCapacity = (size_t{64} << 20) + 4096;  // bytes of the largest tensor
constexpr size_t kGuard = 256;                           // bytes behind it that nobody may write
constexpr uint8_t kPoison = 0xff;                        // a NaN of every type

void CheckCuda(cudaError_t result) {
  CHECK(result == cudaSuccess) << "CUDA: " << cudaGetErrorString(result);
}

}  // namespace

StagedCommunicator::StagedCommunicator(std::unique_ptr<Communicator> communicator,
                                       absl::Duration timeout)
    : timeout_(timeout), communicator_(std::move(communicator)) {
  CheckCuda(cudaGetDevice(&device_));
  CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  CheckCuda(cudaMalloc(reinterpret_cast<void**>(&buffer_), kCapacity + kGuard));
}

StagedCommunicator::~StagedCommunicator() {
  CheckCuda(cudaSetDevice(device_));
  communicator_.reset();  // ends what the stream may still wait for
  CheckCuda(cudaStreamSynchronize(stream_));
  CheckCuda(cudaStreamDestroy(stream_));
  CheckCuda(cudaFree(buffer_));
}

absl::Status StagedCommunicator::Send(TensorView src, int peer, Stream /*stream*/) {
  return Run(src, Use::kRead, [&](const TensorView& device, Stream stream) {
    return communicator_->Send(device, peer, stream);
  });
}

absl::Status StagedCommunicator::Recv(TensorView dst, int peer, Stream /*stream*/) {
  return Run(dst, Use::kWrite, [&](const TensorView& device, Stream stream) {
    return communicator_->Recv(device, peer, stream);
  });
}

absl::Status StagedCommunicator::Broadcast(TensorView inout, int root, Stream /*stream*/) {
  return Run(inout, rank() == root ? Use::kRead : Use::kWrite,
             [&](const TensorView& device, Stream stream) {
               return communicator_->Broadcast(device, root, stream);
             });
}

absl::Status StagedCommunicator::AllReduceSum(TensorView inout, Stream /*stream*/) {
  return Run(inout, Use::kBoth, [&](const TensorView& device, Stream stream) {
    return communicator_->AllReduceSum(device, stream);
  });
}

template <typename Call>
absl::Status StagedCommunicator::Run(const TensorView& host, Use use, const Call& call) {
  const auto bytes = static_cast<size_t>(host.bytes());
  CHECK(bytes <= kCapacity) << "bytes=" << bytes;
  CheckCuda(cudaSetDevice(device_));
  CheckCuda(cudaMemsetAsync(buffer_, kPoison, bytes + kGuard, stream_));
  if (use != Use::kWrite) {
    CheckCuda(cudaMemcpyAsync(buffer_, host.data, bytes, cudaMemcpyHostToDevice, stream_));
  }
  RETURN_IF_ERROR(call(TensorView{buffer_, host.dtype, host.rows, host.cols}, Stream{stream_}));
  RETURN_IF_ERROR(WaitForStream());
  std::vector<uint8_t> guard(kGuard);
  CheckCuda(
      cudaMemcpyAsync(guard.data(), buffer_ + bytes, kGuard, cudaMemcpyDeviceToHost, stream_));
  // What was sent is copied back, too: it must not have changed.
  CheckCuda(cudaMemcpyAsync(host.data, buffer_, bytes, cudaMemcpyDeviceToHost, stream_));
  CheckCuda(cudaStreamSynchronize(stream_));
  CHECK(std::all_of(guard.begin(), guard.end(), [](uint8_t byte) { return byte == kPoison; }))
      << "written behind a tensor of " << bytes << " bytes";
  return absl::OkStatus();
}

absl::Status StagedCommunicator::WaitForStream() {
  const absl::Time deadline = absl::Now() + timeout_;
  while (true) {
    const cudaError_t state = cudaStreamQuery(stream_);
    // Asked even where the stream is through: an aborted kernel ends, too.
    RETURN_IF_ERROR(communicator_->Poll());
    if (state == cudaSuccess) return absl::OkStatus();
    if (state != cudaErrorNotReady) CheckCuda(state);
    if (absl::Now() >= deadline) communicator_->Abort();
    absl::SleepFor(absl::Microseconds(50));
  }
}

}  // namespace longhaul::worker::comm
