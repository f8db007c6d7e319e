#pragma once

#include <cuda_runtime.h>

#include <cstdint>

// What the attention kernels do to scores, in the layout that matrix products of warps and of
// warpgroups share: a row lies in the four lanes of a quad.

namespace longhaul::kernels {

inline constexpr float kLog2E = 1.44269504088896340736f;

__device__ inline float QuadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}

__device__ inline float QuadSum(float x) {
  x += __shfl_xor_sync(0xffffffff, x, 1);
  return x + __shfl_xor_sync(0xffffffff, x, 2);
}

// 2^x, within 2 ulp; 2^-inf is 0.
__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline uint32_t PackBf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// Four lanes' four words, transposed: lane t of the quad gets word t of each.
__device__ inline void QuadTranspose(uint32_t (&w)[4]) {
  const unsigned t = threadIdx.x % 4;
  const auto swap = [&](uint32_t& a, uint32_t& b, unsigned bit) {
    const uint32_t sent = (t & bit) != 0 ? a : b;
    const uint32_t got = __shfl_xor_sync(0xffffffff, sent, bit);
    if ((t & bit) != 0) {
      a = got;
    } else {
      b = got;
    }
  };
  swap(w[0], w[1], 1);
  swap(w[2], w[3], 1);
  swap(w[0], w[2], 2);
  swap(w[1], w[3], 2);
}

// A position's key tiles of `keys` tokens, by region of Dual Chunk Attention: inter before `succ`,
// succ before `intra`, intra before `end`. Tiles divide segments.
struct KeyTiles {
  int32_t succ, intra, end;

  __device__ KeyTiles(int32_t position, int64_t chunk_len, int32_t keys) {
    const int64_t segment = chunk_len > 0 ? position / chunk_len : 0;
    intra = static_cast<int32_t>(segment * chunk_len / keys);
    succ = segment > 0 ? static_cast<int32_t>((segment - 1) * chunk_len / keys) : 0;
    end = position / keys + 1;
  }
  // Region of a tile, 0 to 2, and where it ends.
  __device__ int Region(int32_t tile) const { return tile < succ ? 0 : tile < intra ? 1 : 2; }
  __device__ int32_t RegionEnd(int32_t tile) const {
    return tile < succ ? succ : tile < intra ? intra : end;
  }
};

}  // namespace longhaul::kernels
