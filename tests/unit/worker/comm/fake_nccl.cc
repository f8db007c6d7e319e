#include "tests/unit/worker/comm/fake_nccl.h"

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/logging.h"
#include "common/mutex.h"
#include "kernels/kv_cache/bfloat16.h"

using longhaul::CondVar;
using longhaul::Mutex;
using longhaul::MutexLock;
using longhaul::kernels::BFloat16ToFloat;
using longhaul::kernels::FloatToBFloat16;

// The two opaque types of the libraries' headers.
struct CUstream_st {
  CUstream_st() : thread_([this] { Run(); }) {}
  ~CUstream_st() {
    {
      MutexLock lock(mutex_);
      stop_ = true;
      changed_.SignalAll();
    }
    thread_.join();
  }

  void Push(std::function<void()> task) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    tasks_.push_back(std::move(task));
    changed_.SignalAll();
  }
  bool Idle() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return tasks_.empty();
  }
  void Wait() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (!tasks_.empty()) changed_.Wait(mutex_);
  }

 private:
  void Run() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (true) {
      while (tasks_.empty() && !stop_) changed_.Wait(mutex_);
      if (tasks_.empty()) return;
      const std::function<void()> task = std::move(tasks_.front());
      mutex_.Unlock();
      task();
      mutex_.Lock();
      tasks_.pop_front();  // only now: Idle means done
      changed_.SignalAll();
    }
  }

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> tasks_ GUARDED_BY(mutex_);
  bool stop_ GUARDED_BY(mutex_) = false;
  std::thread thread_;  // the last member: it uses the others
};

namespace {

constexpr int kDevices = 4;
constexpr int kPollsInProgress = 2;

std::atomic<int> live_communicators{0};
std::atomic<int> forced_result{-1};
thread_local int current_device = 0;

using Bytes = std::vector<uint8_t>;

// A group: where its ranks meet and leave messages for each other.
struct Group {
  Mutex mutex;
  CondVar changed;
  int present GUARDED_BY(mutex) = 0;
  std::map<std::pair<int, int>, std::deque<Bytes>> mail GUARDED_BY(mutex);  // by sender, receiver
};

// A rank as its kernels see it, which outlive the communicator.
struct Place {
  std::shared_ptr<Group> group;
  int rank = 0;
  int size = 0;
  std::atomic<bool> aborted{false};

  // False if aborted meanwhile; returns once the receiver has it.
  bool Send(int to, const void* data, size_t bytes) {
    const auto* begin = static_cast<const uint8_t*>(data);
    MutexLock lock(group->mutex);
    auto& box = group->mail[{rank, to}];
    box.emplace_back(begin, begin + bytes);
    group->changed.SignalAll();
    while (!box.empty() && !aborted) group->changed.Wait(group->mutex);
    return !aborted;
  }
  bool Recv(int from, void* data, size_t bytes) {
    MutexLock lock(group->mutex);
    auto& box = group->mail[{from, rank}];
    while (box.empty() && !aborted) group->changed.Wait(group->mutex);
    if (aborted) return false;
    CHECK(box.front().size() == bytes) << "sent=" << box.front().size() << " received=" << bytes;
    std::memcpy(data, box.front().data(), bytes);
    box.pop_front();
    group->changed.SignalAll();
    return true;
  }
  bool Broadcast(int root, void* data, size_t bytes) {
    if (rank != root) return Recv(root, data, bytes);
    for (int peer = 0; peer < size; ++peer) {
      if (peer != root && !Send(peer, data, bytes)) return false;
    }
    return true;
  }
  // `add` adds its second argument onto its first.
  template <typename Element, typename Add>
  bool Sum(Element* data, size_t count, const Add& add) {
    if (rank != 0) {
      if (!Send(0, data, count * sizeof(Element))) return false;
    } else {
      std::vector<Element> other(count);
      for (int peer = 1; peer < size; ++peer) {
        if (!Recv(peer, other.data(), count * sizeof(Element))) return false;
        for (size_t i = 0; i < count; ++i) add(data[i], other[i]);
      }
    }
    return Broadcast(0, data, count * sizeof(Element));
  }
};

std::shared_ptr<Group> GroupOf(const ncclUniqueId& id) {
  static Mutex mutex;
  static auto* groups = new std::map<std::string, std::shared_ptr<Group>>;
  MutexLock lock(mutex);
  auto& group = (*groups)[std::string(id.internal, sizeof(id.internal))];
  if (group == nullptr) group = std::make_shared<Group>();
  return group;
}

}  // namespace

struct ncclComm {
  std::shared_ptr<Place> place = std::make_shared<Place>();
  std::atomic<bool> in_call{false};
  int polls_in_progress = kPollsInProgress;
};

namespace {

// One call at a time.
class Call {
 public:
  explicit Call(ncclComm* comm) : comm_(comm) {
    CHECK(comm != nullptr);
    CHECK(!comm->in_call.exchange(true)) << "two calls at the same time";
  }
  ~Call() { comm_->in_call = false; }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

 private:
  ncclComm* const comm_;
};

template <typename Kernel>
ncclResult_t Launch(ncclComm* comm, cudaStream_t stream, const Kernel& kernel) {
  const Call call(comm);
  CHECK(comm->polls_in_progress == 0) << "the call before is in progress";
  comm->polls_in_progress = kPollsInProgress;
  stream->Push([place = comm->place, kernel] { kernel(*place); });
  return ncclInProgress;
}

}  // namespace

namespace longhaul::testing {

void SetNcclAsyncResult(std::optional<ncclResult_t> result) {
  forced_result = result.has_value() ? static_cast<int>(*result) : -1;
}
int LiveNcclCommunicators() { return live_communicators; }

}  // namespace longhaul::testing

extern "C" {

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<int> made{0};
  *id = {};
  const int number = ++made;
  std::memcpy(id->internal, &number, sizeof(number));
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  CHECK(config->magic == 0xcafebeef && config->blocking == 0);
  CHECK(size <= kDevices) << "two ranks on one device";
  ++live_communicators;
  *comm = new ncclComm;
  Place& place = *(*comm)->place;
  place.group = GroupOf(id);
  place.rank = rank;
  place.size = size;
  MutexLock lock(place.group->mutex);
  ++place.group->present;
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* result) {
  const Call call(comm);
  const int forced = forced_result;
  MutexLock lock(comm->place->group->mutex);
  if (forced != -1) {
    *result = static_cast<ncclResult_t>(forced);
  } else if (comm->place->group->present < comm->place->size) {
    *result = ncclInProgress;
  } else if (comm->polls_in_progress > 0) {
    --comm->polls_in_progress;
    *result = ncclInProgress;
  } else {
    *result = ncclSuccess;
  }
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  {
    const Call call(comm);
    MutexLock lock(comm->place->group->mutex);
    comm->place->aborted = true;
    comm->place->group->changed.SignalAll();
  }
  delete comm;
  --live_communicators;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote error" : "another error";
}
const char* ncclGetLastError(ncclComm_t /*comm*/) { return "the last error"; }

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  CHECK(type == ncclUint8);
  return Launch(comm, stream, [=](Place& place) { place.Send(peer, data, count); });
}

ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  CHECK(type == ncclUint8);
  return Launch(comm, stream, [=](Place& place) { place.Recv(peer, data, count); });
}

ncclResult_t ncclBroadcast(const void* src, void* dst, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  CHECK(type == ncclUint8 && src == dst);
  return Launch(comm, stream, [=](Place& place) { place.Broadcast(root, dst, count); });
}

ncclResult_t ncclAllReduce(const void* src, void* dst, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  CHECK(op == ncclSum && src == dst);
  if (type == ncclBfloat16) {
    return Launch(comm, stream, [=](Place& place) {
      place.Sum(static_cast<uint16_t*>(dst), count, [](uint16_t& sum, uint16_t term) {
        sum = FloatToBFloat16(BFloat16ToFloat(sum) + BFloat16ToFloat(term));
      });
    });
  }
  CHECK(type == ncclFloat32);
  return Launch(comm, stream, [=](Place& place) {
    place.Sum(static_cast<float*>(dst), count, [](float& sum, float term) { sum += term; });
  });
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  current_device = device;
  return device < kDevices ? cudaSuccess : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t /*error*/) { return "an error of the fake"; }

cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = std::malloc(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int /*flags*/) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return stream->Idle() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  stream->Wait();
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  stream->Push([=] { std::memset(data, value, bytes); });
  return cudaSuccess;
}
// As CUDA does with pageable memory: the host's is the caller's again on return.
cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (kind == cudaMemcpyHostToDevice) {
    const auto* begin = static_cast<const uint8_t*>(src);
    stream->Push(
        [dst, copy = Bytes(begin, begin + bytes)] { std::memcpy(dst, copy.data(), copy.size()); });
  } else {
    stream->Push([=] { std::memcpy(dst, src, bytes); });
    stream->Wait();
  }
  return cudaSuccess;
}

}  // extern "C"
