#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/device_stream.h"
#include "kernels/kv_cache/bfloat16.h"
#include "tests/testing/kernel_testing.h"

namespace longhaul::testing {

// Throws, which GoogleTest reports as a failure of the test that runs. Never in destructors.
inline void CheckCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

inline bool HasCudaDevice() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();  // without a driver the call leaves its error behind
  return error == cudaSuccess && count > 0;
}

// Gives a test a stream of its own. Without a device every test of it is skipped, after its
// constructor: nothing may touch the device before the test's body.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasCudaDevice()) GTEST_SKIP() << "no CUDA device";
    CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  // What a kernel did wrong shows at the latest here.
  void TearDown() override {
    if (stream_ == nullptr) return;
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  }

  // For launchers.
  kernels::DeviceStream stream() const { return {stream_}; }
  void Sync() const { CheckCuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

// Device memory of `size` elements, 256-byte aligned. Every byte starts as 0xff: NaN in fp32 and
// bf16, -1 in integers. Memory right before and behind it is poison too, and its destructor fails
// the test if a kernel wrote there. Uploads and downloads wait for all work of the device.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(int64_t size) : size_(size) {
    CheckCuda(cudaMalloc(reinterpret_cast<void**>(&memory_), AllBytes()), "cudaMalloc");
    CheckCuda(cudaMemset(memory_, kPoison, AllBytes()), "cudaMemset");
    CheckCuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(static_cast<int64_t>(values.size())) {
    Upload(values);
  }
  ~DeviceArray() {
    ExpectGuard(0);
    ExpectGuard(kGuardBytes + bytes());
    cudaFree(memory_);
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  // Not more than size() elements, to the front.
  void Upload(const std::vector<T>& values) {
    if (static_cast<int64_t>(values.size()) > size_) throw std::runtime_error("Upload: too long");
    CheckCuda(cudaMemcpy(data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
              "cudaMemcpy to the device");
    CheckCuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }
  std::vector<T> Download() const {
    std::vector<T> values(size_);
    CheckCuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    CheckCuda(cudaMemcpy(values.data(), data(), bytes(), cudaMemcpyDeviceToHost),
              "cudaMemcpy from the device");
    return values;
  }
  void Poison() {
    CheckCuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    CheckCuda(cudaMemset(data(), kPoison, bytes()), "cudaMemset");
    CheckCuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }

  T* data() const { return reinterpret_cast<T*>(memory_ + kGuardBytes); }
  int64_t size() const { return size_; }
  size_t bytes() const { return static_cast<size_t>(size_) * sizeof(T); }

 private:
  static constexpr size_t kGuardBytes = 256;
  static constexpr uint8_t kPoison = 0xff;

  size_t AllBytes() const { return bytes() + 2 * kGuardBytes; }

  void ExpectGuard(size_t offset) const {
    std::vector<uint8_t> guard(kGuardBytes);
    cudaDeviceSynchronize();
    EXPECT_EQ(cudaMemcpy(guard.data(), memory_ + offset, kGuardBytes, cudaMemcpyDeviceToHost),
              cudaSuccess);
    EXPECT_EQ(guard, std::vector<uint8_t>(kGuardBytes, kPoison))
        << "written " << (offset == 0 ? "before" : "behind") << " an array of " << size_;
  }

  const int64_t size_;
  uint8_t* memory_ = nullptr;
};

// Rounded to nearest, ties to even.
inline std::vector<kernels::BFloat16> ToBFloat16(const std::vector<float>& values) {
  std::vector<kernels::BFloat16> rounded;
  rounded.reserve(values.size());
  for (const float value : values) rounded.push_back({kernels::FloatToBFloat16(value)});
  return rounded;
}

// Exact.
inline std::vector<float> ToFloat(const std::vector<kernels::BFloat16>& values) {
  std::vector<float> floats;
  floats.reserve(values.size());
  for (const kernels::BFloat16 value : values)
    floats.push_back(kernels::BFloat16ToFloat(value.bits));
  return floats;
}

// Standard normal times sigma, rounded to bf16: what a reference and a kernel can both be given.
inline std::vector<float> NormalBFloat16(std::mt19937_64& random, int64_t size, float sigma = 1) {
  return ToFloat(ToBFloat16(Normal(random, size, sigma)));
}

}  // namespace longhaul::testing
