#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/kv_cache/bfloat16.h"

// Rows of bf16 are moved 16 bytes at a time, eight elements, and computed with in fp32.

namespace longhaul::kernels {

inline constexpr int32_t kVectorElements = 8;

// Exact. The element with the lower address is in the lower half of each word.
__device__ inline void Unpack(const uint4& packed, float (&values)[kVectorElements]) {
  const uint32_t words[] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __uint_as_float(words[i] << 16);
    values[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

// Rounds to nearest, ties to even; a NaN stays one.
__device__ inline uint4 Pack(const float (&values)[kVectorElements]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
    words[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  return {words[0], words[1], words[2], words[3]};
}

// Eight floats at a 16-byte aligned address.
__device__ inline void LoadFloats(const float* from, float (&values)[kVectorElements]) {
  const float4 low = reinterpret_cast<const float4*>(from)[0];
  const float4 high = reinterpret_cast<const float4*>(from)[1];
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

// Whether vectors may be read and written there.
inline bool IsVectorAligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

}  // namespace longhaul::kernels
