#include <immintrin.h>

#include "kernels/attention/attention_tile_kernel.h"

namespace longhaul::kernels {
namespace {

struct Avx2 {
  using Vec = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kVecs = 2;  // 6 x 2 sums + 2 loads + 1 broadcast of 16 registers

  static Vec Zero() { return _mm256_setzero_ps(); }
  static Vec Set1(float x) { return _mm256_set1_ps(x); }
  static Vec Load(const float* p) { return _mm256_loadu_ps(p); }
  static Vec Load(const uint16_t* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static void Store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
  static Vec MulAdd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  static Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
  static Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
  static float First(Vec x) { return _mm256_cvtss_f32(x); }
  static float HorizontalMax(Vec x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }
  static float HorizontalSum(Vec x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }

  // 2^x for x <= 0; a NaN stays one.
  static Vec Exp2(Vec x) {
    using attention_tile::kExp2Poly;
    const Vec least = _mm256_set1_ps(attention_tile::kExp2Min);
    const Vec keep = _mm256_cmp_ps(x, least, _CMP_NLT_UQ);
    x = _mm256_max_ps(least, x);
    const Vec n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Vec f = _mm256_sub_ps(x, n);
    Vec poly = _mm256_set1_ps(kExp2Poly[5]);
#pragma GCC unroll 8
    for (int i = 4; i >= 0; --i) poly = _mm256_fmadd_ps(poly, f, _mm256_set1_ps(kExp2Poly[i]));
    poly = _mm256_fmadd_ps(poly, f, _mm256_set1_ps(1.0f));
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    const Vec power = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    return _mm256_and_ps(keep, _mm256_mul_ps(poly, power));
  }
};

}  // namespace

AttentionTileFunction AttentionTileAvx2(int32_t head_dim, KvDtype dtype) {
  return attention_tile::Select<Avx2>(head_dim, dtype);
}

}  // namespace longhaul::kernels
