#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device_stream.h"
#include "kernels/kv_cache/bfloat16.h"
#include "kernels/status.h"

namespace longhaul::bench {

// What is measured: one call of an op.
struct DeviceCase {
  std::string op;
  std::string shape;
  int64_t bytes = 0;  // that the call has to read and write, each once
  double flops = 0;   // printed as TFLOP/s where given
};

// Times launchers on the current device and prints a line of JSON a case: the median of CUDA-event
// times, GB/s, and its share of a device-to-device copy measured at the start.
//
// A case is called over and over with buffers of its own for each call, together larger than the
// second-level cache, so that no call finds its inputs there. The calls of a sample are one CUDA
// graph: for small ones time would otherwise be the host's. Any failure ends the program.
//
// Owned by one thread.
class DeviceBench {
 public:
  // Null without a device.
  static std::unique_ptr<DeviceBench> Create();
  ~DeviceBench();
  DeviceBench(const DeviceBench&) = delete;
  DeviceBench& operator=(const DeviceBench&) = delete;

  using Launch = std::function<kernels::KernelStatus(kernels::DeviceStream)>;
  // `make_call` takes buffers for one call (below) and returns the call; they live as long as the
  // case. Its index counts calls, from 0.
  void Run(const DeviceCase& c, const std::function<Launch(int call)>& make_call);

  // Device memory until the next Run ends, 256-byte aligned, full of random numbers of size 0.5 to
  // 1, whether read as bf16 or as fp32.
  template <typename T>
  T* Take(int64_t count) {
    return reinterpret_cast<T*>(TakeBytes(count * static_cast<int64_t>(sizeof(T))));
  }
  template <typename T>
  T* TakeWith(const std::vector<T>& values) {
    T* memory = Take<T>(static_cast<int64_t>(values.size()));
    Upload(values.data(), static_cast<int64_t>(values.size() * sizeof(T)), memory);
    return memory;
  }

 private:
  DeviceBench() = default;
  uint8_t* TakeBytes(int64_t bytes);
  void Upload(const void* from, int64_t bytes, void* to);
  void FillPool();
  double MeasureCopy();
  // Milliseconds of `work`, enqueued on stream_: the median of some samples.
  double MedianMs(const std::function<void()>& work);

  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
  uint8_t* pool_ = nullptr;
  int64_t used_ = 0;  // bytes of the pool
  int64_t cache_bytes_ = 0;
  double copy_gb_per_s_ = 0;
};

// The shapes of the 7B.
inline constexpr int32_t kLayers = 28;
inline constexpr int32_t kHidden = 3584;
inline constexpr int32_t kIntermediate = 18944;
inline constexpr int64_t kVocab = 152064;
inline constexpr int32_t kQueryHeads = 28;
inline constexpr int32_t kKvHeads = 4;
inline constexpr int32_t kHeadDim = 128;
inline constexpr int64_t kRowCounts[] = {32768, 1};

// One function a file.
void DecodeBench(DeviceBench& bench);    // a whole step of one or two tokens
void FusedBench(DeviceBench& bench);     // embedding, add, rms_norm, silu_mul
void RopeBench(DeviceBench& bench);      // rope_table, rope_qkv_paged
void SamplingBench(DeviceBench& bench);  // sampling, logprobs

}  // namespace longhaul::bench
