#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/device_stream.h"
#include "kernels/parallel.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// Which rotary position a row gets from its absolute position p, with r = p mod chunk_len:
//   kIntra  r (keys are cached at it too), or p itself when chunk_len is 0 (plain RoPE)
//   kSucc   min(r + chunk_len, chunk_size)
//   kInter  min(2 * chunk_len - 1, chunk_size), the same for every row
enum class RopeVariant : uint8_t { kIntra, kSucc, kInter };

constexpr int64_t RopePosition(RopeVariant variant, int64_t p, int64_t chunk_len,
                               int64_t chunk_size) {
  if (chunk_len == 0) return p;
  switch (variant) {
    case RopeVariant::kIntra:
      return p % chunk_len;
    case RopeVariant::kSucc:
      return std::min(p % chunk_len + chunk_len, chunk_size);
    case RopeVariant::kInter:
      return std::min(2 * chunk_len - 1, chunk_size);
  }
  return p;
}

// Cosines and sines for rows of tokens; computed once per unit and used by all of its layers.
struct RopeTableParams {
  // Inputs.
  const int64_t* positions = nullptr;  // [T] absolute positions p >= 0, any order
  int64_t num_rows = 0;                // T >= 0
  int32_t head_dim = 0;                // D, even, <= 1024
  double theta = 0;                    // rope_theta > 0
  RopeVariant variant = RopeVariant::kIntra;
  int64_t chunk_len = 0;   // DCA segment length; 0 = plain RoPE, only kIntra is then allowed
  int64_t chunk_size = 0;  // DCA clamp, >= chunk_len; unused when chunk_len is 0
  // Outputs.
  float* cos = nullptr;  // [T, D/2]
  float* sin = nullptr;  // [T, D/2]
};

// inv_freq[i] = 1 / theta^(2i/D), every step rounded to fp32 as Hugging Face's Qwen2 computes it.
void RopeInverseFrequencies(double theta, int32_t head_dim, float* inv_freq);  // [D/2]

// cos and sin of the fp32 product fp32(position) * inv_freq[i], each within 1 ulp of that angle's
// true value at any position below 2^24.
KernelStatus RopeTableCpu(const RopeTableParams& p, Parallel& parallel);
KernelStatus RopeTableRef(const RopeTableParams& p);

// The same with positions, cos and sin in device memory.
KernelStatus RopeTableCuda(const RopeTableParams& p, DeviceStream stream);

}  // namespace longhaul::kernels
