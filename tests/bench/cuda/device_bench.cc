#include "tests/bench/cuda/device_bench.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace longhaul::bench {
namespace {

constexpr int64_t kPoolBytes = int64_t{16} << 30;
constexpr int64_t kCopyBytes = int64_t{1} << 30;
constexpr int64_t kAlignment = 256;
constexpr int kSamples = 15;
constexpr int kWarmUps = 3;
constexpr int64_t kMinCalls = 2;
constexpr int64_t kMaxCalls = 2048;
constexpr int64_t kCachesACase = 3;  // times the second-level cache that a case's buffers take

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

}  // namespace

std::unique_ptr<DeviceBench> DeviceBench::Create() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return nullptr;
  std::unique_ptr<DeviceBench> bench(new DeviceBench);
  int cache_bytes = 0;
  Check(cudaDeviceGetAttribute(&cache_bytes, cudaDevAttrL2CacheSize, 0), "cudaDevAttrL2CacheSize");
  bench->cache_bytes_ = cache_bytes;
  Check(cudaStreamCreateWithFlags(&bench->stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  Check(cudaEventCreate(&bench->begin_), "cudaEventCreate");
  Check(cudaEventCreate(&bench->end_), "cudaEventCreate");
  Check(cudaMalloc(reinterpret_cast<void**>(&bench->pool_), kPoolBytes), "cudaMalloc of the pool");
  bench->FillPool();
  bench->copy_gb_per_s_ = bench->MeasureCopy();
  return bench;
}

DeviceBench::~DeviceBench() {
  cudaFree(pool_);
  cudaEventDestroy(end_);
  cudaEventDestroy(begin_);
  cudaStreamDestroy(stream_);
}

// Random signs and mantissas, as data's bits have a part in what a device takes of power.
void DeviceBench::FillPool() {
  std::vector<uint32_t> words(int64_t{4} << 20);
  std::mt19937 random(1);
  for (uint32_t& word : words) word = (random() & 0x807f807fu) | 0x3f003f00u;
  const int64_t bytes = static_cast<int64_t>(words.size() * sizeof(uint32_t));
  Upload(words.data(), bytes, pool_);
  for (int64_t at = bytes; at < kPoolBytes; at += bytes) {
    Check(cudaMemcpyAsync(pool_ + at, pool_, std::min(bytes, kPoolBytes - at),
                          cudaMemcpyDeviceToDevice, stream_),
          "cudaMemcpyAsync");
  }
  Check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

double DeviceBench::MeasureCopy() {
  const double ms = MedianMs([this] {
    Check(cudaMemcpyAsync(pool_ + kCopyBytes, pool_, kCopyBytes, cudaMemcpyDeviceToDevice, stream_),
          "cudaMemcpyAsync");
  });
  return 2 * static_cast<double>(kCopyBytes) / (ms * 1e6);
}

double DeviceBench::MedianMs(const std::function<void()>& work) {
  std::vector<float> samples;
  for (int i = 0; i < kWarmUps + kSamples; ++i) {
    Check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
    work();
    Check(cudaEventRecord(end_, stream_), "cudaEventRecord");
    Check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float ms = 0;
    Check(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime");
    if (i >= kWarmUps) samples.push_back(ms);
  }
  std::nth_element(samples.begin(), samples.begin() + kSamples / 2, samples.end());
  return double{samples[kSamples / 2]};
}

void DeviceBench::Run(const DeviceCase& c, const std::function<Launch(int call)>& make_call) {
  const int64_t wanted = kCachesACase * cache_bytes_ / c.bytes + 1;
  const int calls = static_cast<int>(std::clamp(wanted, kMinCalls, kMaxCalls));
  std::vector<Launch> launches;
  for (int call = 0; call < calls; ++call) launches.push_back(make_call(call));

  Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin of capture");
  for (const Launch& launch : launches) {
    const kernels::KernelStatus status = launch({stream_});
    if (status == kernels::KernelStatus::kOk) continue;
    std::fprintf(stderr, "%s %s: %s\n", c.op.c_str(), c.shape.c_str(),
                 kernels::KernelStatusName(status));
    std::exit(1);
  }
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  Check(cudaStreamEndCapture(stream_, &graph), "end of capture");
  Check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  const double ms =
      MedianMs([&] { Check(cudaGraphLaunch(executable, stream_), "cudaGraphLaunch"); }) / calls;
  Check(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
  Check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  used_ = 0;

  const double gb_per_s = static_cast<double>(c.bytes) / (ms * 1e6);
  std::printf(
      "{\"op\":\"%s\",\"shape\":\"%s\",\"ms\":%.6f,\"gb_per_s\":%.1f,"
      "\"copy_gb_per_s\":%.1f,\"share_of_copy\":%.3f",
      c.op.c_str(), c.shape.c_str(), ms, gb_per_s, copy_gb_per_s_, gb_per_s / copy_gb_per_s_);
  if (c.flops > 0) std::printf(",\"tflop_per_s\":%.1f", c.flops / (ms * 1e9));
  std::printf("}\n");
  std::fflush(stdout);
}

uint8_t* DeviceBench::TakeBytes(int64_t bytes) {
  uint8_t* memory = pool_ + used_;
  used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (used_ > kPoolBytes) {
    std::fprintf(stderr, "a case takes more than the pool's %lld bytes\n",
                 static_cast<long long>(kPoolBytes));
    std::exit(1);
  }
  return memory;
}

void DeviceBench::Upload(const void* from, int64_t bytes, void* to) {
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
  Check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

}  // namespace longhaul::bench
