#include "worker/backend/cuda_backend.h"

#include <cmath>
#include <cstring>
#include <iostream>
#include <limits>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "tests/testing/cuda_testing.h"
#include "tests/testing/golden.h"
#include "tests/testing/status_matchers.h"
#include "worker/backend/cpu_backend.h"

namespace longhaul::worker::backend {
namespace {

using ::longhaul::testing::HasCudaDevice;
using ::longhaul::testing::SplitMixUniform;
using ::longhaul::testing::StatusIs;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(CudaBackendWithoutADevice, SaysWhatIsMissing) {
  EXPECT_THAT(MakeCudaBackend(4096).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AnyOf(HasSubstr("CUDA device 4096 of "), HasSubstr("CUDA driver"),
                             HasSubstr("no CUDA-capable device"))));
}

class CudaBackendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasCudaDevice()) GTEST_SKIP() << "no CUDA device";
    auto backend = MakeCudaBackend(0);
    CHECK(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
  }

  // Values in device memory, which lives as long as the test.
  template <typename T>
  TensorView OnDevice(const std::vector<T>& values, DType dtype, int64_t rows) {
    auto buffer = backend_->Allocate(static_cast<int64_t>(values.size() * sizeof(T)));
    CHECK(buffer.ok()) << buffer.status();
    const TensorView view{buffer->data(), dtype, rows, static_cast<int64_t>(values.size()) / rows};
    buffers_.push_back(*std::move(buffer));
    EXPECT_OK(backend_->CopyToDevice(values.data(), view));
    return view;
  }
  TensorView Floats(const std::vector<float>& values, int64_t rows) {
    return OnDevice(values, DType::kFloat32, rows);
  }
  TensorView Halves(const std::vector<float>& values, int64_t rows) {
    return OnDevice(::longhaul::testing::ToBFloat16(values), DType::kBFloat16, rows);
  }
  std::vector<float> HostHalves(TensorView view) {
    std::vector<kernels::BFloat16> values(static_cast<size_t>(view.size()));
    EXPECT_OK(backend_->CopyToHost(view, values.data()));
    return ::longhaul::testing::ToFloat(values);
  }

  std::vector<DeviceBuffer> buffers_;  // given back before the backend's end
  std::unique_ptr<Backend> backend_;

  void TearDown() override { buffers_.clear(); }
};

TEST_F(CudaBackendTest, IsNamedAndHasMemory) {
  EXPECT_THAT(backend_->HardwareName(), ::testing::Not(::testing::IsEmpty()));
  std::cout << backend_->HardwareName() << ", " << backend_->FreeMemoryBytes() << " bytes free\n";
  EXPECT_GT(backend_->FreeMemoryBytes(), int64_t{1} << 28);
  EXPECT_EQ(backend_->activation_dtype(), DType::kBFloat16);
}

TEST_F(CudaBackendTest, AllocatesZeroedMemoryOrSaysHowMuchThereIs) {
  constexpr int64_t kBytes = 1000;
  for (int turn = 0; turn < 2; ++turn) {  // the second time on what the first one left
    ASSERT_OK_AND_ASSIGN(const DeviceBuffer buffer, backend_->Allocate(kBytes));
    const TensorView view{buffer.data(), DType::kFloat32, 1, kBytes / 4};
    std::vector<float> host(kBytes / 4, -1);
    ASSERT_OK(backend_->CopyToHost(view, host.data()));
    EXPECT_EQ(host, std::vector<float>(kBytes / 4, 0));
    host.assign(host.size(), 7);
    ASSERT_OK(backend_->CopyToDevice(host.data(), view));
  }
  EXPECT_THAT(backend_->Allocate(int64_t{1} << 50).status(),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       ::testing::AllOf(HasSubstr("1125899906842624 bytes"), HasSubstr("free"))));
  EXPECT_OK(backend_->Allocate(kBytes));  // the error is not found again
}

TEST_F(CudaBackendTest, CopiesMoreThanItsPageLockedMemoryHolds) {
  const std::vector<float> values = SplitMixUniform(3, 5'000'001);
  const TensorView device = Floats(values, 1);
  std::vector<float> back(values.size());
  ASSERT_OK(backend_->CopyToHost(device, back.data()));
  EXPECT_EQ(back, values);
}

TEST_F(CudaBackendTest, TheHostsMemoryIsTheCallersAgainAfterACopy) {
  std::vector<float> values(3'000'000, 1);
  ASSERT_OK_AND_ASSIGN(const DeviceBuffer buffer, backend_->Allocate(36'000'000));
  const TensorView all{buffer.data(), DType::kFloat32, 3, 3'000'000};
  for (int64_t row = 0; row < 3; ++row) {
    values.assign(values.size(), static_cast<float>(row));
    ASSERT_OK(backend_->CopyToDevice(values.data(), all.Rows(row, 1)));
    values.assign(values.size(), -1);
  }
  for (int64_t row = 0; row < 3; ++row) {
    ASSERT_OK(backend_->CopyToHost(all.Rows(row, 1), values.data()));
    EXPECT_EQ(values, std::vector<float>(values.size(), static_cast<float>(row)));
  }
}

TEST_F(CudaBackendTest, CopiesColumnsBesideOthers) {
  const TensorView part = Floats({1, 2, 3, 4}, 2);
  const TensorView whole = Floats(std::vector<float>(8, -1), 2);
  ASSERT_OK(backend_->CopyColumns(part, whole, 1));
  std::vector<float> host(8);
  ASSERT_OK(backend_->CopyToHost(whole, host.data()));
  EXPECT_THAT(host, ElementsAre(-1, 1, 2, -1, -1, 3, 4, -1));
  EXPECT_THAT(backend_->CopyColumns(part, whole, 3),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("[2, 2] and [2, 4]")));
}

TEST_F(CudaBackendTest, RandomNumbersAreTheCpusRounded) {
  const auto cpu = MakeCpuBackend(1);
  for (const int64_t cols : {264, 13}) {
    const NormalWindow window = {
        .seed = std::random_device()(), .stream = 7, .row_begin = 1000, .col_begin = 88};
    std::vector<float> want(static_cast<size_t>(37 * cols), NAN);
    ASSERT_OK(cpu->FillNormal(window, 0.02, {want.data(), DType::kFloat32, 37, cols}));
    const TensorView out = Halves(std::vector<float>(want.size(), -1), 37);
    ASSERT_OK(backend_->FillNormal(window, 0.02, out));
    const std::vector<float> got = HostHalves(out);
    for (size_t i = 0; i < want.size(); ++i) {
      // Half an ulp of bf16, and the functions' own rounding.
      ASSERT_NEAR(got[i], want[i], 0.003908 * std::abs(want[i]) + 1e-7) << window.seed << " " << i;
    }
  }
}

TEST_F(CudaBackendTest, LinearWritesEitherType) {
  // Exact in bf16.
  std::vector<float> x(16);
  std::iota(x.begin(), x.end(), -7.0f);
  std::vector<float> weight(64, 0);
  for (size_t i = 0; i < 8; ++i) weight[i * 8 + i] = 2;
  const TensorView input = Halves(x, 2);
  const LinearWeight linear{Halves(weight, 8), Halves(std::vector<float>(8, 1), 1)};
  std::vector<float> expected;
  for (const float value : x) expected.push_back(2 * value + 1);
  const TensorView halves = Halves(std::vector<float>(16, 99), 2);
  ASSERT_OK(backend_->Linear(input, linear, halves));
  EXPECT_EQ(HostHalves(halves), expected);
  const TensorView floats = Floats(std::vector<float>(16, 99), 2);
  ASSERT_OK(backend_->Linear(input, {linear.weight, {}}, floats));  // logits have no bias
  std::vector<float> host(16);
  ASSERT_OK(backend_->CopyToHost(floats, host.data()));
  for (float& value : expected) value -= 1;
  EXPECT_EQ(host, expected);
  EXPECT_THAT(backend_->Linear(input, {Halves(std::vector<float>(40), 5), {}}, floats),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("multiples of 8")));
}

TEST_F(CudaBackendTest, LinearAddKeepsWhatWasThere) {
  std::vector<float> weight(64, 0);
  for (size_t i = 0; i < 8; ++i) weight[i * 8 + i] = 2;
  for (const int64_t rows : {1, 3, 200}) {
    std::vector<float> x(static_cast<size_t>(rows) * 8);
    std::vector<float> sum(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<float>(i % 16) - 7;
      sum[i] = static_cast<float>(i % 5);
    }
    const TensorView y = Halves(sum, rows);
    ASSERT_OK(backend_->LinearAdd(Halves(x, rows), Halves(weight, 8), y));
    for (size_t i = 0; i < x.size(); ++i) sum[i] += 2 * x[i];
    EXPECT_EQ(HostHalves(y), sum) << rows;
  }
}

TEST_F(CudaBackendTest, EmbedsThePlansIdsAndRefusesOthers) {
  std::vector<float> table(32);
  std::iota(table.begin(), table.end(), 0.0f);
  const TensorView device = Halves(table, 4);
  const TensorView out = Halves(std::vector<float>(16, -1), 2);
  const std::vector<BlockId> block_table = {0};
  const std::vector<SequenceRows> sequence = {{.num_rows = 2, .block_table = block_table}};
  const std::vector<float> scale = {1, 1};
  const auto plan = backend_->MakeRowPlan();
  const auto embed = [&](std::vector<TokenId> ids) {
    EXPECT_OK(backend_->PlanRows({.theta = 1e4, .head_dim = 64},
                                 {.sequences = sequence, .query_scale = scale, .ids = ids}, *plan));
    return backend_->Embed(device, *plan, out);
  };
  for (int turn = 0; turn < 3; ++turn) {
    ASSERT_OK(embed({3, 1}));
    EXPECT_THAT(HostHalves(out), ElementsAre(24, 25, 26, 27, 28, 29, 30, 31,  //
                                             8, 9, 10, 11, 12, 13, 14, 15));
  }
  EXPECT_THAT(embed({0, 4}), StatusIs(absl::StatusCode::kInternal, HasSubstr("[0, 4]")));
}

TEST_F(CudaBackendTest, WorksOnAnotherThreadThanItWasMadeOn) {
  const TensorView device = Floats({1, 2, 3}, 1);
  std::thread([&] {
    std::vector<float> host(3);
    EXPECT_OK(backend_->CopyToHost(device, host.data()));
    EXPECT_THAT(host, ElementsAre(1, 2, 3));
    const auto buffer = backend_->Allocate(64);
    EXPECT_OK(buffer);
  }).join();
  EXPECT_GT(backend_->FreeMemoryBytes(), 0);
}

TEST_F(CudaBackendTest, SamplesWithAllThatARowHas) {
  constexpr int32_t kVocabulary = 1000;
  constexpr int64_t kRows = 40;
  const uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937_64 random(seed);
  std::vector<float> logits = SplitMixUniform(seed, kRows * kVocabulary, 6.0f);
  logits[5 * kVocabulary + 17] = std::numeric_limits<float>::quiet_NaN();
  const TensorView device = Floats(logits, kRows);
  const TensorView host{logits.data(), DType::kFloat32, kRows, kVocabulary};
  struct State {
    SamplingParams params;
    std::vector<uint64_t> seen;
    std::vector<int32_t> counts;
    std::vector<TokenId> banned;
  };
  std::vector<State> states(kRows);
  std::vector<SampleRow> on_device;
  std::vector<SampleRow> on_host;
  for (int64_t i = 0; i < kRows; ++i) {
    State& state = states[static_cast<size_t>(i)];
    state.params = {.temperature = i % 4 == 0 ? 0.0f : 0.8f, .seed = random()};
    if (i % 3 == 0) state.params.top_logprobs = static_cast<int32_t>(i % 7);
    if (i % 5 == 1) {
      state.params.repetition_penalty = 1.5f;
      state.seen.resize((kVocabulary + 63) / 64);
      for (uint64_t& word : state.seen) word = random();
    }
    if (i % 5 == 2) {
      state.params.presence_penalty = 0.7f;
      state.params.frequency_penalty = 0.3f;
      state.counts.resize(kVocabulary);
      for (int32_t& count : state.counts) count = static_cast<int32_t>(random() % 4);
    }
    if (i % 6 == 3) state.params.logit_bias = {{3, 4.0f}, {700, -50.0f}};
    if (i % 6 == 4) state.banned = {1, 2, 999};
    if (i % 8 == 1) state.params.top_p = 0.7f;
    if (i % 8 == 3) state.params.top_k = 5;
    SampleRow row{.logits = device.Rows(i, 1),
                  .params = &state.params,
                  .seen = state.seen,
                  .output_counts = state.counts,
                  .banned = state.banned,
                  .output_index = static_cast<uint64_t>(i)};
    on_device.push_back(row);
    row.logits = host.Rows(i, 1);
    on_host.push_back(row);
  }
  const auto expected = MakeCpuBackend(1)->Sample(on_host);
  for (int turn = 0; turn < 2; ++turn) {  // memory is used again
    const auto actual = backend_->Sample(on_device);
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      ASSERT_EQ(actual[i].ok(), expected[i].ok()) << i;
      EXPECT_EQ(actual[i].ok(), i != 5);
      if (!actual[i].ok()) {
        EXPECT_THAT(actual[i].status(), StatusIs(absl::StatusCode::kInternal, HasSubstr("NaN")));
        continue;
      }
      EXPECT_EQ(actual[i]->token, expected[i]->token) << i;
      ASSERT_EQ(actual[i]->logprob.has_value(), expected[i]->logprob.has_value());
      if (expected[i]->logprob.has_value()) {
        EXPECT_NEAR(*actual[i]->logprob, *expected[i]->logprob, 1e-5) << i;
      }
      ASSERT_EQ(actual[i]->top_logprobs.size(), expected[i]->top_logprobs.size());
      for (size_t t = 0; t < expected[i]->top_logprobs.size(); ++t) {
        EXPECT_EQ(actual[i]->top_logprobs[t].token, expected[i]->top_logprobs[t].token);
      }
    }
  }
}

TEST_F(CudaBackendTest, LogprobsAreTheCpus) {
  const std::vector<float> logits = SplitMixUniform(9, 1500, 5.0f);
  std::vector<float> on_host = logits;
  const TensorView device = Floats(logits, 3);
  const TensorView host{on_host.data(), DType::kFloat32, 3, 500};
  std::vector<LogprobsRow> device_rows;
  std::vector<LogprobsRow> host_rows;
  for (int64_t i = 0; i < 3; ++i) {
    device_rows.push_back({.logits = device.Rows(i, 1),
                           .token = static_cast<TokenId>(100 * i),
                           .num_top = static_cast<int32_t>(2 * i)});
    host_rows.push_back(device_rows.back());
    host_rows.back().logits = host.Rows(i, 1);
  }
  const auto actual = backend_->Logprobs(device_rows);
  const auto expected = MakeCpuBackend(1)->Logprobs(host_rows);
  ASSERT_EQ(actual.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_OK(actual[i]);
    EXPECT_EQ(actual[i]->token, expected[i]->token);
    EXPECT_NEAR(*actual[i]->logprob, *expected[i]->logprob, 1e-5);
    EXPECT_EQ(actual[i]->top_logprobs.size(), 2 * i);
  }
}

}  // namespace
}  // namespace longhaul::worker::backend
