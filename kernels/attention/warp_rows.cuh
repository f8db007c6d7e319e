#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/attention/softmax.cuh"
#include "kernels/cuda/ampere.cuh"

// Attention of the 16 rows that a warp's matrix products have, since Ampere: what decode and the
// portable prefill share.

namespace longhaul::kernels {

// Where a 16-byte chunk of a key's row of kHeadDim bf16 lies in shared memory: rows start in the
// same bank, so their chunks are permuted.
template <int kHeadDim>
__device__ int SwizzledOffset(int row, int chunk) {
  static_assert(kHeadDim % 64 == 0, "eight chunks of a row are permuted");
  return row * kHeadDim * 2 + (chunk ^ (row & 7)) * 16;
}

// A lane's part: rows lane / 4 and lane / 4 + 8.
template <int kHeadDim>
struct WarpRows {
  uint32_t q[kHeadDim / 16][4];
  float sums[kHeadDim / 8][4] = {};
  float largest[2] = {-INFINITY, -INFINITY};
  float total[2] = {0, 0};  // this lane's keys only
};

// Queries of rows [0, num_rows), `stride` elements apart; the others become zeros.
template <int kHeadDim>
__device__ void LoadQueries(const __nv_bfloat16* q, int64_t stride, int num_rows,
                            WarpRows<kHeadDim>& rows, int first_row = 0) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i % 2);
      const int column = 16 * step + 8 * (i / 2) + 2 * (lane % 4);
      rows.q[step][i] = row >= first_row && row < num_rows
                            ? *reinterpret_cast<const uint32_t*>(q + row * stride + column)
                            : 0;
    }
  }
}

struct LastKeys {
  int32_t of[2];  // the last key that each of a lane's rows sees
};

// Rows meet keys [first_key, first_key + kKeys): k and v are [kKeys, D] in shared memory, swizzled.
// A row has seen a key before, or sees the first one.
template <int kHeadDim, int kKeys>
__device__ void AttendKeys(const uint8_t* k, const uint8_t* v, float log2_scale, int32_t first_key,
                           bool is_masked, LastKeys last, WarpRows<kHeadDim>& rows) {
  const int lane = threadIdx.x % 32;
  float scores[kKeys / 8][4] = {};
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
      uint32_t b[4];
      const int row = 16 * n + lane / 16 * 8 + lane % 8;
      ampere::LoadMatrices(b, k + SwizzledOffset<kHeadDim>(row, 2 * step + lane / 8 % 2));
      ampere::MultiplyAdd(scores[2 * n], rows.q[step], b[0], b[1]);
      ampere::MultiplyAdd(scores[2 * n + 1], rows.q[step], b[2], b[3]);
    }
  }
  if (is_masked) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (first_key + 8 * n + 2 * (lane % 4) + i % 2 > last.of[i / 2]) scores[n][i] = -INFINITY;
      }
    }
  }
  float rescale[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float largest = -INFINITY;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      largest = fmaxf(largest, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
    }
    largest = fmaxf(rows.largest[h], QuadMax(largest));
    rescale[h] = Exp2((rows.largest[h] - largest) * log2_scale);
    rows.largest[h] = largest;
    rows.total[h] *= rescale[h];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = scores[n][2 * h + e];
        score = Exp2(fmaf(score, log2_scale, -largest * log2_scale));
        rows.total[h] += score;
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) rows.sums[n][i] *= rescale[i / 2];
  }
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    const uint32_t weights[4] = {PackBf16(scores[2 * step][0], scores[2 * step][1]),
                                 PackBf16(scores[2 * step][2], scores[2 * step][3]),
                                 PackBf16(scores[2 * step + 1][0], scores[2 * step + 1][1]),
                                 PackBf16(scores[2 * step + 1][2], scores[2 * step + 1][3])};
#pragma unroll
    for (int pair = 0; pair < kHeadDim / 16; ++pair) {
      uint32_t b[4];
      const int row = 16 * step + lane / 8 % 2 * 8 + lane % 8;
      ampere::LoadMatricesTransposed(b, v + SwizzledOffset<kHeadDim>(row, 2 * pair + lane / 16));
      ampere::MultiplyAdd(rows.sums[2 * pair], weights, b[0], b[1]);
      ampere::MultiplyAdd(rows.sums[2 * pair + 1], weights, b[2], b[3]);
    }
  }
}

}  // namespace longhaul::kernels
