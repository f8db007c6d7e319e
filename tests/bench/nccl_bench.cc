// All-reduce and send between the GPUs of this machine over NCCL, a process each.
//
//   nccl_bench [--ranks 2] [--rounds 11]
//
// Prints for each size the median time of a call over the rounds (lowest to highest), bytes / time,
// and what a call costs the thread that enqueues it. A send is timed as half of there and back.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/subprocess.h"
#include "tests/testing/folder_rendezvous.h"
#include "tests/testing/temp_dir.h"
#include "worker/comm/nccl_communicator.h"

namespace longhaul::worker::comm {
namespace {

enum class Call { kSum, kSend };

struct Case {
  Call call;
  int64_t bytes;
};
constexpr int64_t kActivations = int64_t{2048} * 3584;  // elements of 2,048 tokens of the 7B model
constexpr Case kCases[] = {
    {Call::kSum, 16 << 10},  {Call::kSum, 64 << 10},          {Call::kSum, 1 << 20},
    {Call::kSum, 16 << 20},  {Call::kSum, 64 << 20},          {Call::kSum, 1 << 30},
    {Call::kSend, 16 << 10}, {Call::kSend, 2 * kActivations}, {Call::kSend, 4 * kActivations},
    {Call::kSend, 1 << 30},
};
constexpr int64_t kMaxBytes = 1 << 30;

void CheckCuda(cudaError_t result) {
  CHECK(result == cudaSuccess) << "CUDA: " << cudaGetErrorString(result);
}

// A rank's memory: numbers, and where they are summed.
class Device {
 public:
  // Where there are more ranks than devices, NCCL refuses what NCCL_MULTI_RANK_GPU_ENABLE=1 does
  // not allow, and the figures say nothing of links.
  explicit Device(int rank) {
    int count = 0;
    CheckCuda(cudaGetDeviceCount(&count));
    number_ = rank % count;
    CheckCuda(cudaSetDevice(number_));
    CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    CheckCuda(cudaMalloc(&numbers_, kMaxBytes));
    CheckCuda(cudaMalloc(&buffer_, kMaxBytes));
    std::mt19937 random(static_cast<unsigned>(rank));
    std::uniform_real_distribution<float> number(-1, 1);
    std::vector<float> chunk(4 << 20);
    for (float& value : chunk) value = number(random);
    const auto chunk_bytes = static_cast<int64_t>(chunk.size() * sizeof(float));
    for (int64_t begin = 0; begin < kMaxBytes; begin += chunk_bytes) {
      CheckCuda(cudaMemcpyAsync(static_cast<uint8_t*>(numbers_) + begin, chunk.data(), chunk_bytes,
                                cudaMemcpyHostToDevice, stream_));
    }
    Wait();
  }

  int number() const { return number_; }
  Stream stream() const { return {stream_}; }
  // The numbers anew: sums of sums would grow without bound.
  TensorView Fresh(int64_t bytes) {
    CheckCuda(cudaMemcpyAsync(buffer_, numbers_, static_cast<size_t>(bytes),
                              cudaMemcpyDeviceToDevice, stream_));
    Wait();
    return {buffer_, DType::kFloat32, 1, bytes / 4};
  }
  void Wait() { CheckCuda(cudaStreamSynchronize(stream_)); }

 private:
  int number_ = 0;
  cudaStream_t stream_ = nullptr;
  void* numbers_ = nullptr;  // freed with the process
  void* buffer_ = nullptr;
};

void Make(Communicator& comm, Call call, TensorView view, Stream stream) {
  absl::Status status;
  if (call == Call::kSum) {
    status = comm.AllReduceSum(view, stream);
  } else if (comm.rank() == 0) {
    status = comm.Send(view, 1, stream);
    if (status.ok()) status = comm.Recv(view, 1, stream);
  } else if (comm.rank() == 1) {
    status = comm.Recv(view, 0, stream);
    if (status.ok()) status = comm.Send(view, 0, stream);
  }
  CHECK(status.ok()) << status;
}

double Median(std::vector<double>& values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void Measure(Communicator& comm, Device& device, const Case& what, int rounds) {
  const int calls = static_cast<int>(std::clamp<int64_t>((256 << 20) / what.bytes, 4, 50));
  const int ways = what.call == Call::kSum ? 1 : 2;
  std::vector<double> times;
  std::vector<double> enqueues;
  for (int round = -2; round < rounds; ++round) {  // two to warm up
    const TensorView view = device.Fresh(what.bytes);
    Make(comm, what.call, view, device.stream());  // the ranks start together
    device.Wait();
    const absl::Time begin = absl::Now();
    for (int i = 0; i < calls; ++i) Make(comm, what.call, view, device.stream());
    const absl::Time enqueued = absl::Now();
    device.Wait();
    if (round < 0) continue;
    times.push_back(absl::ToDoubleSeconds(absl::Now() - begin) / calls / ways);
    enqueues.push_back(absl::ToDoubleSeconds(enqueued - begin) / calls / ways);
  }
  if (comm.rank() != 0) return;
  const double median = Median(times);
  std::printf("%-10s %10.0f KiB  %9.4f ms (%.4f to %.4f)  %7.2f GB/s  enqueue %6.1f us\n",
              what.call == Call::kSum ? "all-reduce" : "send",
              static_cast<double>(what.bytes) / 1024, median * 1e3, times.front() * 1e3,
              times.back() * 1e3, static_cast<double>(what.bytes) / median / 1e9,
              Median(enqueues) * 1e6);
  std::fflush(stdout);
}

int Run(int rank, int ranks, int rounds, const std::string& folder) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("this machine has no CUDA device\n");
    return 1;
  }
  std::unique_ptr<testing::TempDir> made;
  std::vector<std::unique_ptr<Subprocess>> peers;
  if (rank == 0) {
    made = std::make_unique<testing::TempDir>();
    const auto programs = ProgramFolder();
    CHECK(programs.ok()) << programs.status();
    for (int peer = 1; peer < ranks; ++peer) {
      auto started =
          Subprocess::Start({.argv = {*programs + "/nccl_bench", "--rank", absl::StrCat(peer),
                                      "--ranks", absl::StrCat(ranks), "--rounds",
                                      absl::StrCat(rounds), "--folder", made->path()}});
      CHECK(started.ok()) << started.status();
      peers.push_back(*std::move(started));
    }
  }
  Device device(rank);
  testing::FolderRendezvous store(made == nullptr ? folder : made->path());
  const auto comm =
      MakeNcclCommunicator({.rank = rank, .size = ranks, .device = device.number()}, store);
  CHECK(comm.ok()) << comm.status();
  for (const Case& what : kCases) Measure(**comm, device, what, rounds);
  for (auto& peer : peers) peer->Wait(absl::Now() + absl::Seconds(10));
  return 0;
}

}  // namespace
}  // namespace longhaul::worker::comm

int main(int argc, char** argv) {
  CLI::App app("All-reduce and send between the GPUs of this machine over NCCL");
  int rank = 0;
  int ranks = 2;
  int rounds = 11;
  std::string folder;
  app.add_option("--ranks", ranks, "processes, one a GPU")->check(CLI::Range(2, 16));
  app.add_option("--rounds", rounds, "timed rounds of each size")->check(CLI::Range(1, 1000));
  app.add_option("--rank", rank, "of a process that this program started");
  app.add_option("--folder", folder, "where it meets the others");
  CLI11_PARSE(app, argc, argv);
  return longhaul::worker::comm::Run(rank, ranks, rounds, folder);
}
