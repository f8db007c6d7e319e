#include "worker/rank/group_communicators.h"

#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/status_macros.h"
#include "worker/comm/gloo_communicator.h"
#include "worker/comm/local_address.h"
#include "worker/comm/local_communicator.h"
#ifdef LONGHAUL_HAVE_NCCL
#include "worker/comm/nccl_communicator.h"
#endif

namespace longhaul::worker::rank {
namespace {

// For all ranks to connect: they do it first thing after Start, which all get at once.
constexpr absl::Duration kConnectTimeout = absl::Seconds(30);
// Longest wait for a peer. A rank may wait for another one as long as that computes, and only the
// leader knows how long a step should take: it aborts a group whose step takes longer than
// max(30 s, 3 x predicted), or 10 minutes where nothing predicts it, and one with a rank that it no
// longer hears. So this is longer than any step, and no more than an end to every wait: whatever
// keeps ranks waiting ends with the leader's abort, or with the control stream.
constexpr absl::Duration kCallTimeout = absl::Hours(24);
#ifdef LONGHAUL_HAVE_NCCL
// Longest duration of a call that only enqueues: the first one between two ranks connects them, as
// soon as both have made it.
constexpr absl::Duration kEnqueueTimeout = absl::Minutes(10);
#endif

}  // namespace

absl::Status GroupCommunicators::PrepareCuda([[maybe_unused]] const std::string& host,
                                             [[maybe_unused]] const std::string& interface) {
#ifdef LONGHAUL_HAVE_NCCL
  ASSIGN_OR_RETURN(const std::string name, comm::LocalInterface(host, interface));
  return comm::MeetOnInterface(name);
#else
  return absl::UnimplementedError(
      "ranks of --device cuda exchange tensors by NCCL, which this program was built without: set "
      "--tensor-parallel-size and --pipeline-parallel-size to 1");
#endif
}

absl::StatusOr<std::unique_ptr<comm::Communicator>> GroupCommunicators::Join(
    int rank, int size, const std::string& group, comm::RendezvousStore& store) const {
  if (!options_.cuda_device.has_value()) {
    return comm::MakeGlooCommunicator({.rank = rank,
                                       .size = size,
                                       .group = group,
                                       .host = options_.host,
                                       .interface = options_.interface,
                                       .connect_timeout = kConnectTimeout,
                                       .timeout = kCallTimeout},
                                      store);
  }
#ifdef LONGHAUL_HAVE_NCCL
  return comm::MakeNcclCommunicator({.rank = rank,
                                     .size = size,
                                     .device = *options_.cuda_device,
                                     .group = group,
                                     .connect_timeout = kConnectTimeout,
                                     .timeout = kEnqueueTimeout},
                                    store);
#else
  return absl::UnimplementedError("this program was built without NCCL");
#endif
}

absl::Status GroupCommunicators::Connect(const GroupShape& shape, int32_t rank,
                                         comm::RendezvousStore& store) {
  const int32_t stage = shape.StageOf(rank);
  const int32_t shard = shape.ShardOf(rank);
  const auto make =
      [&](int size, int place,
          const std::string& name) -> absl::StatusOr<std::unique_ptr<comm::Communicator>> {
    if (size == 1) return std::move(comm::MakeLocalGroup(1).front());
    return Join(place, size, name, store);
  };
  ASSIGN_OR_RETURN(tensor_,
                   make(shape.tensor_parallel_size(), shard, absl::StrCat("tensor", stage)));
  RETURN_IF_ERROR(Publish(0, tensor_.get()));
  ASSIGN_OR_RETURN(pipeline_,
                   make(shape.pipeline_parallel_size(), stage, absl::StrCat("pipeline", shard)));
  return Publish(1, pipeline_.get());
}

absl::Status GroupCommunicators::Publish(size_t index, comm::Communicator* communicator) {
  MutexLock lock(mutex_);
  abortable_[index] = communicator;
  return aborted_ ? absl::UnavailableError("aborted while the ranks connected") : absl::OkStatus();
}

absl::Status GroupCommunicators::Poll() {
  RETURN_IF_ERROR(tensor_->Poll()) << "tensor-parallel group";
  RETURN_IF_ERROR(pipeline_->Poll()) << "pipeline-parallel group";
  return absl::OkStatus();
}

void GroupCommunicators::Abort() {
  MutexLock lock(mutex_);
  aborted_ = true;
  // At the same time: on a device the end of one may wait for what the other has there.
  std::vector<std::thread> threads;
  for (comm::Communicator* communicator : abortable_) {
    if (communicator != nullptr) threads.emplace_back([communicator] { communicator->Abort(); });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace longhaul::worker::rank
