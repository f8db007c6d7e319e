#pragma once

#include <cstdint>

#include "kernels/cuda/bfloat16_vector.cuh"

// How a block takes a whole row of the residual stream: thread i has the row's vectors i and
// i + blockDim.x, whatever the number of rows, so that a sum over the row has one order.

namespace longhaul::kernels {

inline constexpr int32_t kRowVectors = 2;         // vectors a thread
inline constexpr int32_t kMaxRowElements = 8192;  // E at most
inline constexpr int32_t kMaxRowThreads = kMaxRowElements / kVectorElements / kRowVectors;
static_assert(kMaxRowThreads <= 1024, "a row has to fit one block");

constexpr bool IsRowWidth(int32_t hidden) {
  return hidden >= kVectorElements && hidden <= kMaxRowElements && hidden % kVectorElements == 0;
}

// Whole warps that cover a row of `hidden` elements.
constexpr int32_t RowThreads(int32_t hidden) {
  constexpr int32_t kWarpElements = 32 * kVectorElements * kRowVectors;
  return (hidden + kWarpElements - 1) / kWarpElements * 32;
}

// Blocks of a grid's first dimension.
inline constexpr int64_t kMaxGridBlocks = 0x7fffffff;

}  // namespace longhaul::kernels
