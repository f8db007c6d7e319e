#include <bit>

#include "kernels/attention/attention_tile_kernel.h"
#include "kernels/kv_cache/bfloat16.h"

namespace longhaul::kernels {
namespace {

// Compiler vectors of 128 bits: SSE2, NEON and their like. A product and a sum round separately.
struct Portable {
  typedef float Vec __attribute__((vector_size(16)));
  typedef int32_t Bits __attribute__((vector_size(16)));
  static constexpr int kWidth = 4;
  static constexpr int kVecs = 2;

  static Vec Zero() { return Vec{}; }
  static Vec Set1(float x) { return Vec{x, x, x, x}; }
  static Vec Load(const float* p) { return Vec{p[0], p[1], p[2], p[3]}; }
  static Vec Load(const uint16_t* p) {
    return Vec{BFloat16ToFloat(p[0]), BFloat16ToFloat(p[1]), BFloat16ToFloat(p[2]),
               BFloat16ToFloat(p[3])};
  }
  static void Store(float* p, Vec x) {
    for (int i = 0; i < kWidth; ++i) p[i] = x[i];
  }
  static Vec MulAdd(Vec a, Vec b, Vec c) { return a * b + c; }
  static Vec Add(Vec a, Vec b) { return a + b; }
  static Vec Sub(Vec a, Vec b) { return a - b; }
  static Vec Mul(Vec a, Vec b) { return a * b; }
  static Vec Max(Vec a, Vec b) { return a > b ? a : b; }
  static float First(Vec x) { return x[0]; }
  static float HorizontalMax(Vec x) {
    const float low = x[0] > x[1] ? x[0] : x[1];
    const float high = x[2] > x[3] ? x[2] : x[3];
    return low > high ? low : high;
  }
  static float HorizontalSum(Vec x) { return (x[0] + x[2]) + (x[1] + x[3]); }

  // 2^x for x <= 0; a NaN stays one.
  static Vec Exp2(Vec x) {
    using attention_tile::kExp2Poly;
    const Vec least = Set1(attention_tile::kExp2Min);
    const Bits drop = x < least;  // false for a NaN
    x = drop ? least : x;
    const Vec shift = Set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Vec shifted = x + shift;
    const Vec f = x - (shifted - shift);
    Vec poly = Set1(kExp2Poly[5]);
    for (int i = 4; i >= 0; --i) poly = poly * f + Set1(kExp2Poly[i]);
    poly = poly * f + Set1(1.0f);
    const Bits exponent = (std::bit_cast<Bits>(shifted) + 127) << 23;
    return drop ? Zero() : poly * std::bit_cast<Vec>(exponent);
  }
};

}  // namespace

AttentionTileFunction AttentionTilePortable(int32_t head_dim, KvDtype dtype) {
  return attention_tile::Select<Portable>(head_dim, dtype);
}

}  // namespace longhaul::kernels
