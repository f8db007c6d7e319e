#pragma once

#include <cstdint>

#include "kernels/device_stream.h"
#include "kernels/kv_cache/bfloat16.h"
#include "kernels/parallel.h"
#include "kernels/random/philox.h"
#include "kernels/status.h"

namespace longhaul::kernels {

// A window of an endless matrix of independent N(0, sigma^2): out[r][c] is its element
// (row_begin + r, col_begin + c), which depends on seed, stream and that place alone. Windows of
// one stream therefore agree where they overlap, and streams are independent of each other.
template <typename Element>
struct NormalParams {
  uint64_t seed = 0;
  uint64_t stream = 0;     // which matrix
  int64_t row_begin = 0;   // >= 0; rows end below 2^32
  int64_t col_begin = 0;   // >= 0; columns end below 2^32
  int64_t num_rows = 0;    // >= 0
  int64_t num_cols = 0;    // >= 0
  float sigma = 0;         // >= 0, finite
  Element* out = nullptr;  // [num_rows, num_cols]
};

// Columns whose elements one call of the generator gives.
inline constexpr int64_t kNormalGroup = 4;

// Two pairs of uniform numbers, for the elements of a row in columns [4 group, 4 group + 4).
// Multiples of 2^-24, so exact in fp32: radius in (0, 1], angle in [0, 1). By Box and Muller the
// elements are, times sigma, sqrt(-2 ln radius) * {cos, sin}(2 pi angle): those of the first pair,
// then of the second, of at most 5.77 sigma.
struct NormalUniforms {
  float radius[2];
  float angle[2];
};
constexpr NormalUniforms NormalUniformsAt(uint64_t seed, uint64_t stream, int64_t row,
                                          int64_t group) {
  const PhiloxWords random =
      Philox4x32(seed, {{static_cast<uint32_t>(group), static_cast<uint32_t>(row),
                         static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)}});
  NormalUniforms uniforms = {};
  for (int64_t pair = 0; pair < 2; ++pair) {
    const uint32_t radius = (random.word[2 * pair] >> 8) + 1;
    const uint32_t angle = random.word[2 * pair + 1] >> 8;
    uniforms.radius[pair] = static_cast<float>(radius) * 0x1p-24f;
    uniforms.angle[pair] = static_cast<float>(angle) * 0x1p-24f;
  }
  return uniforms;
}

template <typename Element>
constexpr bool IsNormalValid(const NormalParams<Element>& p) {
  constexpr int64_t kLimit = int64_t{1} << 32;
  return p.row_begin >= 0 && p.col_begin >= 0 && p.num_rows >= 0 && p.num_cols >= 0 &&
         p.row_begin <= kLimit - p.num_rows && p.col_begin <= kLimit - p.num_cols && p.sigma >= 0 &&
         p.sigma <= 1e30f && (p.num_rows == 0 || p.num_cols == 0 || p.out != nullptr);
}

// All agree within the rounding of logarithm, sine and cosine. kInvalidArgument outside the ranges
// above.
KernelStatus NormalCpu(const NormalParams<float>& p, Parallel& parallel);
KernelStatus NormalRef(const NormalParams<float>& p);

// Rounded to bf16. Fastest where num_cols and col_begin are multiples of 8 and out is 16-byte
// aligned.
KernelStatus NormalCuda(const NormalParams<BFloat16>& p, DeviceStream stream);

}  // namespace longhaul::kernels
