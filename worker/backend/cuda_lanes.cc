#include "worker/backend/cuda_lanes.h"

#include "common/status_macros.h"
#include "worker/backend/cuda_status.h"

namespace longhaul::worker::backend {
namespace {

// The event is made when it is first recorded, where an error can be told.
struct CudaMark final : Mark {
  CudaMark() = default;
  ~CudaMark() override {
    if (event != nullptr) cudaEventDestroy(event);
  }
  CudaMark(const CudaMark&) = delete;
  CudaMark& operator=(const CudaMark&) = delete;

  cudaEvent_t event = nullptr;
};

cudaEvent_t EventOf(const Mark& mark) { return static_cast<const CudaMark&>(mark).event; }

}  // namespace

CudaLanes::~CudaLanes() {
  for (const cudaStream_t stream : streams_) {
    // An error is one of the work before, which its caller has seen or no longer wants.
    if (stream != nullptr) cudaStreamSynchronize(stream);
  }
  for (const cudaStream_t stream : streams_) {
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
}

absl::Status CudaLanes::Open() {
  int last = 0;
  int first = 0;
  RETURN_IF_ERROR(
      CudaStatus(cudaDeviceGetStreamPriorityRange(&last, &first), "priorities of streams"));
  for (const Lane lane : {Lane::kOps, Lane::kSums, Lane::kLinks}) {
    RETURN_IF_ERROR(CudaStatus(
        cudaStreamCreateWithPriority(&streams_[static_cast<size_t>(lane)], cudaStreamNonBlocking,
                                     lane == Lane::kOps ? last : first),
        "making a stream"));
  }
  return absl::OkStatus();
}

std::unique_ptr<Mark> CudaLanes::MakeMark() const { return std::make_unique<CudaMark>(); }

absl::Status CudaLanes::Record(Lane lane, Mark& mark) const {
  cudaEvent_t& event = static_cast<CudaMark&>(mark).event;
  if (event == nullptr) {
    RETURN_IF_ERROR(CudaStatus(cudaEventCreate(&event), "making an event"));
  }
  return CudaStatus(cudaEventRecord(event, StreamOf(lane)), "recording an event");
}

absl::Status CudaLanes::Await(const Mark& mark, Lane lane) const {
  if (EventOf(mark) == nullptr) return absl::OkStatus();  // never recorded
  return CudaStatus(cudaStreamWaitEvent(StreamOf(lane), EventOf(mark), 0),
                    "having a stream wait for an event");
}

absl::StatusOr<absl::Duration> CudaLanes::Elapsed(const Mark& begin, const Mark& end) const {
  float milliseconds = 0;
  RETURN_IF_ERROR(CudaStatus(cudaEventElapsedTime(&milliseconds, EventOf(begin), EventOf(end)),
                             "the time between two events"));
  return absl::Milliseconds(milliseconds);
}

}  // namespace longhaul::worker::backend
