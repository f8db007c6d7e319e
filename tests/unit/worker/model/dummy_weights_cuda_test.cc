#include <chrono>
#include <cmath>
#include <iostream>
#include <vector>

#include "common/logging.h"
#include "tests/testing/cuda_testing.h"
#include "tests/testing/status_matchers.h"
#include "worker/backend/cpu_backend.h"
#include "worker/backend/cuda_backend.h"
#include "worker/model/dummy_weights.h"

namespace longhaul::worker::model {
namespace {

using ::longhaul::testing::HasCudaDevice;
using ::longhaul::testing::ToFloat;

class DummyWeightsOnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasCudaDevice()) GTEST_SKIP() << "no CUDA device";
    auto backend = backend::MakeCudaBackend(0);
    CHECK(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
  }
  std::vector<float> Host(TensorView tensor) const {
    std::vector<kernels::BFloat16> values(static_cast<size_t>(tensor.size()));
    EXPECT_OK(backend_->CopyToHost(tensor, values.data()));
    return ToFloat(values);
  }

  std::unique_ptr<backend::Backend> backend_;
};

// Half an ulp of bf16 on either side, and of a draw that was rounded before the direction of sinks,
// below 0.1 at this size, was added to it: where they cancel, the sum is small and the error is
// not.
void ExpectRounded(const std::vector<float>& actual, TensorView expected, const char* what) {
  ASSERT_EQ(static_cast<int64_t>(actual.size()), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i) {
    const float want = expected.f32()[i];
    ASSERT_NEAR(actual[i], want, 0.0079 * std::abs(want) + 4e-4) << what << " " << i;
  }
}

TEST_F(DummyWeightsOnDevice, AreTheCpusRounded) {
  constexpr ModelConfig kConfig = {.num_layers = 2,
                                   .hidden_size = 256,
                                   .intermediate_size = 512,
                                   .num_heads = 4,
                                   .num_kv_heads = 2,
                                   .head_dim = 128,
                                   .vocab_size = 1001,
                                   .max_position_embeddings = 1'010'000,
                                   .rope_theta = 1e7};
  const auto cpu = backend::MakeCpuBackend(1);
  for (const WeightRange& range :
       {WeightRange{.layer_end = 2},
        WeightRange{.layer_end = 2, .tensor_parallel_rank = 1, .tensor_parallel_size = 2}}) {
    ASSERT_OK_AND_ASSIGN(const Weights want, MakeDummyWeights(kConfig, range, *cpu));
    ASSERT_OK_AND_ASSIGN(const Weights got, MakeDummyWeights(kConfig, range, *backend_));
    ExpectRounded(Host(got.embedding), want.embedding, "embedding");
    ExpectRounded(Host(got.lm_head.weight), want.lm_head.weight, "lm_head");
    for (size_t layer = 0; layer < 2; ++layer) {
      const Weights::Layer& a = got.layers[layer];
      const Weights::Layer& b = want.layers[layer];
      ExpectRounded(Host(a.qkv.weight), b.qkv.weight, "qkv");
      ExpectRounded(Host(a.qkv.bias), b.qkv.bias, "bias");
      ExpectRounded(Host(a.out.weight), b.out.weight, "out");
      ExpectRounded(Host(a.gate_up.weight), b.gate_up.weight, "gate_up");
      ExpectRounded(Host(a.down.weight), b.down.weight, "down");
    }
  }
}

// What Qwen2.5-7B-Instruct-1M has: 15.2 GB.
TEST_F(DummyWeightsOnDevice, OfSevenBillionAreThereInSeconds) {
  constexpr ModelConfig kConfig = {.num_layers = 28,
                                   .hidden_size = 3584,
                                   .intermediate_size = 18944,
                                   .num_heads = 28,
                                   .num_kv_heads = 4,
                                   .head_dim = 128,
                                   .vocab_size = 152064,
                                   .max_position_embeddings = 1'010'000,
                                   .rope_theta = 1e7};
  const int64_t free = backend_->FreeMemoryBytes();
  if (free < int64_t{16} << 30) GTEST_SKIP() << free << " bytes free";
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_OK_AND_ASSIGN(const Weights weights,
                       MakeDummyWeights(kConfig, {.layer_end = 28}, *backend_));
  double squares = 0;
  for (const float value : Host(weights.layers[27].down.weight.Rows(3583, 1))) {
    squares += double{value} * value;
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  std::cout << weights.bytes << " bytes in " << seconds.count() << " s\n";
  EXPECT_LT(seconds.count(), 20);
  // Of the last row of all; 18,944 draws are within 4 parts of 138 of their deviation.
  const double variance = 3584 * 0.02 * 0.02;
  const double sigma = 0.02 / std::sqrt(56 * 18944 * variance * variance / 2);
  EXPECT_NEAR(std::sqrt(squares / 18944), sigma, sigma * 4 / 138);
}

}  // namespace
}  // namespace longhaul::worker::model
