#pragma once

namespace longhaul::testing {

// How far a kernel may be from its reference in double: |a - b| <= abs + rel * |b| for each
// element. One table for all of them; each entry says where its size comes from. u = 2^-24 is half
// an ulp of 1 in fp32. Inputs of kernel tests are standard normal unless a test says otherwise.
struct Tolerance {
  double abs;
  double rel;
};

// Both sides round the true cosine of the same fp32 angle; they may fall to different sides of a
// tie.
inline constexpr Tolerance kRopeTableTolerance = {6.0e-8, 0};

// Three products or sums of values up to about 8: 3 * 8 u, and room for a large draw.
inline constexpr Tolerance kRopeTolerance = {3e-6, 0};

// As above, then one rounding to 8 bits that may fall to the other neighbour: an ulp is 2^-7.
inline constexpr Tolerance kRopeBFloat16Tolerance = {3e-6, 0.0079};

// A score is a chain of D <= 128 FMAs of size about sqrt(D) (error about 3e-6 before the scale of
// 1 / sqrt(D)); exp carries it over as a relative error of the weights, and sums of up to some
// thousand weights add their own u each. Outputs are averages, smaller than 1.
inline constexpr Tolerance kAttentionTolerance = {3e-6, 3e-6};

// The log of the same sum, of size 1 to 10.
inline constexpr Tolerance kLseTolerance = {4e-6, 1e-6};

// Weights are rounded to 8 bits before they meet V (2^-9 of each at most, and their errors average
// out), the result once more: half an ulp is 2^-9 of it, for the other neighbour a whole one.
inline constexpr Tolerance kAttentionBFloat16Tolerance = {4e-3, 0.0079};

// Scores are products of bf16 numbers, summed in fp32; the exponential is within 2 ulp.
inline constexpr Tolerance kLseBFloat16Tolerance = {2e-5, 2e-6};

// DCA against relative distances: angles are fp32 products (error u * angle, up to 4e-5 rad at the
// 640 of the test's chunk_size), so scores differ by some 1e-5 to 1e-4, outputs by less.
inline constexpr Tolerance kDcaDistanceTolerance = {1e-4, 0};

// Sum of k products in any order: step i rounds a partial sum of size sqrt(i) with a deviation of
// u * sqrt(i) / sqrt(3); together u * k / sqrt(6), and ten deviations of that. A row that happens
// to be long has larger partial sums and, mostly, a larger result.
constexpr Tolerance GemmTolerance(double k) { return {1e-6 + 2.5e-7 * k, 1e-6}; }

// In sigmas: logarithm within 1 ulp under a root, sine and cosine within 1 ulp or of an angle
// rounded to 2^-24, times radii of up to 5.77.
inline constexpr Tolerance kNormalTolerance = {1.5e-6, 5e-7};

// x + y is correctly rounded on both sides.
inline constexpr Tolerance kAddTolerance = {0, 0};

// Sum of squares (positive terms, in 16 lanes), a square root, a division, two products.
inline constexpr Tolerance kRmsNormTolerance = {1e-9, 1e-6};

// exp within 2 ulp, a sum, a quotient, a product.
inline constexpr Tolerance kSiluMulTolerance = {1e-30, 6e-7};

// Elementwise ops of bf16 numbers, in fp32 (within 1e-6, as above) and then rounded: half an ulp of
// bf16 is at most 2^-8 of the number.
inline constexpr Tolerance kBFloat16Tolerance = {1e-30, 0.003908};

// Both sides sum in double and round once; logprobs are of size 1 to 30.
inline constexpr Tolerance kLogprobTolerance = {1e-6, 2e-7};

// Logits of T shards against one. What a layer adds to the residual stream is a sum of T partial
// sums, rounded T - 1 times more and in other places, twice a layer; the rest of the layer carries
// differences of some 1e-7 of the stream's size on. Through 5 layers of random weights 1.3e-5 was
// the most seen, for logits of up to about 6; ten times that. (Where the parts are those in which
// oneDNN sums over K anyway, as with the demo model and AVX-512, nothing differs.)
inline constexpr Tolerance kTensorParallelLogitsTolerance = {1e-4, 1e-5};

}  // namespace longhaul::testing
