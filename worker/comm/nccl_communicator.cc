#include "worker/comm/nccl_communicator.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "common/status_macros.h"

namespace longhaul::worker::comm {
namespace {

// While NCCL works on a call: most are enqueued within microseconds, connecting takes much longer.
constexpr absl::Duration kSpin = absl::Microseconds(200);
constexpr absl::Duration kNap = absl::Microseconds(100);

std::string Describe(ncclResult_t result) {
  return absl::StrCat(ncclGetErrorString(result), " (", ncclGetLastError(nullptr), ")");
}

cudaStream_t CudaStream(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

class NcclCommunicator final : public Communicator {
 public:
  explicit NcclCommunicator(const NcclCommunicatorOptions& options) : options_(options) {}
  ~NcclCommunicator() override { Close("the communicator was destroyed"); }

  // Once, before all else. Errors: kDeadlineExceeded, kUnavailable.
  absl::Status Connect(const ncclUniqueId& id) EXCLUDES(mutex_) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.collnetEnable = 0;  // the network must not sum in an order of its own
    // NCCL's thread writes it once more when it has connected: it lives until Await or Poison,
    // which wait for that thread, are through.
    ncclComm_t made = nullptr;
    const ncclResult_t begun =
        ncclCommInitRankConfig(&made, options_.size, id, options_.rank, &config);
    {
      MutexLock lock(mutex_);
      comm_ = made;
    }
    if (made == nullptr || (begun != ncclSuccess && begun != ncclInProgress)) {
      return Poison(absl::StrCat("connect: NCCL: ", Describe(begun)));
    }
    const absl::Status connected = Await("connect", options_.connect_timeout);
    if (!connected.ok()) Close(std::string(connected.message()));
    return connected;
  }

  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }

  absl::Status Send(TensorView src, int peer, Stream stream) override {
    RETURN_IF_ERROR(CheckCall("send", peer, src));
    if (peer == rank()) return absl::InvalidArgumentError("send: a rank cannot be its own peer");
    return Enqueue("send", src, [&](ncclComm_t comm) {
      return ncclSend(src.data, Bytes(src), ncclUint8, peer, comm, CudaStream(stream));
    });
  }

  absl::Status Recv(TensorView dst, int peer, Stream stream) override {
    RETURN_IF_ERROR(CheckCall("receive", peer, dst));
    if (peer == rank()) return absl::InvalidArgumentError("receive: a rank cannot be its own peer");
    return Enqueue("receive", dst, [&](ncclComm_t comm) {
      return ncclRecv(dst.data, Bytes(dst), ncclUint8, peer, comm, CudaStream(stream));
    });
  }

  absl::Status Broadcast(TensorView inout, int root, Stream stream) override {
    RETURN_IF_ERROR(CheckCall("broadcast", root, inout));
    return Enqueue("broadcast", inout, [&](ncclComm_t comm) {
      return ncclBroadcast(inout.data, inout.data, Bytes(inout), ncclUint8, root, comm,
                           CudaStream(stream));
    });
  }

  absl::Status AllReduceSum(TensorView inout, Stream stream) override {
    RETURN_IF_ERROR(CheckCall("all-reduce", 0, inout));
    if (inout.dtype != DType::kFloat32 && inout.dtype != DType::kBFloat16) {
      return absl::InvalidArgumentError("all-reduce: only fp32 and bf16 are summed");
    }
    const ncclDataType_t type = inout.dtype == DType::kFloat32 ? ncclFloat32 : ncclBfloat16;
    return Enqueue("all-reduce", inout, [&](ncclComm_t comm) {
      return ncclAllReduce(inout.data, inout.data, static_cast<size_t>(inout.size()), type, ncclSum,
                           comm, CudaStream(stream));
    });
  }

  absl::Status Poll() override EXCLUDES(mutex_) {
    const absl::StatusOr<ncclResult_t> result = AsyncResult();
    if (!result.ok()) return result.status();
    if (*result == ncclSuccess || *result == ncclInProgress) return absl::OkStatus();
    return Poison(absl::StrCat("NCCL: ", Describe(*result)));
  }

  void Abort() override { Close(absl::StrCat("rank ", rank(), " aborted")); }

 private:
  static size_t Bytes(const TensorView& tensor) { return static_cast<size_t>(tensor.bytes()); }

  absl::Status CheckCall(const char* what, int peer, const TensorView& tensor) EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      RETURN_IF_ERROR(status_);
    }
    if (peer < 0 || peer >= size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, ": rank ", peer, " of a group of ", size()));
    }
    if (tensor.rows < 0 || tensor.cols < 0 || (tensor.data == nullptr && tensor.size() > 0)) {
      return absl::InvalidArgumentError(absl::StrCat(what, ": a tensor of ", tensor.rows, " x ",
                                                     tensor.cols, " elements at ",
                                                     tensor.data == nullptr ? "null" : "memory"));
    }
    return absl::OkStatus();
  }

  // Makes an NCCL call and waits until it is enqueued. The lock, held while NCCL is called, keeps
  // Abort from freeing the communicator meanwhile; NCCL's calls only begin what takes time.
  template <typename Call>
  absl::Status Enqueue(const char* what, const TensorView& tensor, const Call& call)
      EXCLUDES(mutex_) {
    if (tensor.size() == 0) return absl::OkStatus();  // on the peers, too
    ncclResult_t result = ncclSuccess;
    {
      MutexLock lock(mutex_);
      RETURN_IF_ERROR(status_);
      result = call(comm_);
    }
    if (result == ncclSuccess) return absl::OkStatus();
    if (result != ncclInProgress) return Poison(absl::StrCat(what, ": NCCL: ", Describe(result)));
    const absl::Status enqueued = Await(what, options_.timeout);
    return enqueued.ok() ? enqueued : Poison(std::string(enqueued.message()));
  }

  // Waits until NCCL is done with the call before. Errors: kDeadlineExceeded (not poisoned),
  // kUnavailable.
  absl::Status Await(const char* what, absl::Duration timeout) EXCLUDES(mutex_) {
    const absl::Time begin = absl::Now();
    while (true) {
      ASSIGN_OR_RETURN(const ncclResult_t result, AsyncResult());
      if (result == ncclSuccess) return absl::OkStatus();
      if (result != ncclInProgress) {
        return Poison(absl::StrCat(what, ": NCCL: ", Describe(result)));
      }
      const absl::Duration waited = absl::Now() - begin;
      if (waited >= timeout) {
        return absl::DeadlineExceededError(absl::StrCat(what, ": rank ", rank(), " of ", size(),
                                                        " waits for its peers for longer than ",
                                                        absl::FormatDuration(timeout)));
      }
      if (waited < kSpin) {
        std::this_thread::yield();
      } else {
        absl::SleepFor(kNap);
      }
    }
  }

  // What NCCL says of the communicator, or why there is none.
  absl::StatusOr<ncclResult_t> AsyncResult() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    RETURN_IF_ERROR(status_);
    ncclResult_t result = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm_, &result);
    return asked == ncclSuccess ? result : asked;
  }

  // Closes the communicator; returns the first error.
  absl::Status Poison(const std::string& why) EXCLUDES(mutex_) {
    Close(why);
    MutexLock lock(mutex_);
    return status_;
  }

  // What NCCL holds is freed by whoever comes first, without the lock: that may take a while, and
  // nobody else has it any more.
  void Close(const std::string& why) EXCLUDES(mutex_) {
    ncclComm_t comm = nullptr;
    {
      MutexLock lock(mutex_);
      if (status_.ok()) status_ = absl::UnavailableError(why);
      comm = std::exchange(comm_, nullptr);
    }
    if (comm == nullptr) return;
    const ncclResult_t result = ncclCommAbort(comm);
    if (result != ncclSuccess && result != ncclInProgress) {
      LOG(WARNING) << "rank=" << rank() << " event=nccl_abort_failed error=" << Describe(result);
    }
  }

  const NcclCommunicatorOptions options_;
  Mutex mutex_;
  ncclComm_t comm_ GUARDED_BY(mutex_) = nullptr;  // null before Connect, and once poisoned
  absl::Status status_ GUARDED_BY(mutex_);
};

// The name under which NCCL's ranks find each other: rank 0 makes it, the store carries it.
absl::StatusOr<ncclUniqueId> MeetingPlace(const NcclCommunicatorOptions& options,
                                          RendezvousStore& store, absl::Time deadline) {
  const std::string key = absl::StrCat(options.group, "/nccl");
  ncclUniqueId id;
  if (options.rank == 0) {
    const ncclResult_t result = ncclGetUniqueId(&id);
    if (result != ncclSuccess) {
      return absl::UnavailableError(absl::StrCat("connect: NCCL: ", Describe(result)));
    }
    RETURN_IF_ERROR(store.Set(key, std::string(id.internal, sizeof(id.internal))));
    return id;
  }
  ASSIGN_OR_RETURN(const std::string value, store.Get(key, deadline));
  if (value.size() != sizeof(id.internal)) {
    return absl::InvalidArgumentError(absl::StrCat("connect: rank 0 published ", value.size(),
                                                   " bytes as `", key, "`, an id of NCCL has ",
                                                   sizeof(id.internal)));
  }
  std::memcpy(id.internal, value.data(), value.size());
  return id;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(
    const NcclCommunicatorOptions& options, RendezvousStore& store) {
  if (options.rank < 0 || options.rank >= options.size) {
    return absl::InvalidArgumentError(
        absl::StrCat("connect: rank ", options.rank, " of a group of ", options.size));
  }
  if (const cudaError_t error = cudaSetDevice(options.device); error != cudaSuccess) {
    return absl::UnavailableError(
        absl::StrCat("connect: CUDA device ", options.device, ": ", cudaGetErrorString(error)));
  }
  ASSIGN_OR_RETURN(const ncclUniqueId id,
                   MeetingPlace(options, store, absl::Now() + options.connect_timeout));
  auto communicator = std::make_unique<NcclCommunicator>(options);
  RETURN_IF_ERROR(communicator->Connect(id));
  return communicator;
}

absl::Status MeetOnInterface(const std::string& interface) {
  // `=`: the very name, not what begins with it.
  if (setenv("NCCL_SOCKET_IFNAME", absl::StrCat("=", interface).c_str(), /*overwrite=*/0) == 0) {
    return absl::OkStatus();
  }
  return absl::InternalError(
      absl::StrCat("setting NCCL_SOCKET_IFNAME to =", interface, ": ", std::strerror(errno)));
}

}  // namespace longhaul::worker::comm
