#include <immintrin.h>

#include "kernels/attention/attention_tile_kernel.h"

namespace longhaul::kernels {
namespace {

struct Avx512 {
  using Vec = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kVecs = 4;  // 6 x 4 sums + 4 loads + 1 broadcast of 32 registers

  static Vec Zero() { return _mm512_setzero_ps(); }
  static Vec Set1(float x) { return _mm512_set1_ps(x); }
  static Vec Load(const float* p) { return _mm512_loadu_ps(p); }
  static Vec Load(const uint16_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static void Store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
  static Vec MulAdd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static float First(Vec x) { return _mm512_cvtss_f32(x); }
  static float HorizontalMax(Vec x) { return _mm512_reduce_max_ps(x); }
  static float HorizontalSum(Vec x) { return _mm512_reduce_add_ps(x); }

  // 2^x for x <= 0; a NaN stays one.
  static Vec Exp2(Vec x) {
    using attention_tile::kExp2Poly;
    const Vec least = _mm512_set1_ps(attention_tile::kExp2Min);
    const __mmask16 keep = _mm512_cmp_ps_mask(x, least, _CMP_NLT_UQ);
    x = _mm512_max_ps(least, x);
    const Vec n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Vec f = _mm512_sub_ps(x, n);
    Vec poly = _mm512_set1_ps(kExp2Poly[5]);
#pragma GCC unroll 8
    for (int i = 4; i >= 0; --i) poly = _mm512_fmadd_ps(poly, f, _mm512_set1_ps(kExp2Poly[i]));
    poly = _mm512_fmadd_ps(poly, f, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(keep, poly, n);
  }
};

}  // namespace

AttentionTileFunction AttentionTileAvx512(int32_t head_dim, KvDtype dtype) {
  return attention_tile::Select<Avx512>(head_dim, dtype);
}

}  // namespace longhaul::kernels
