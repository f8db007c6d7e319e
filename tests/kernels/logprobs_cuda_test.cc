#include "kernels/logprobs/logprobs_cuda.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/testing/cuda_testing.h"

namespace longhaul::kernels {
namespace {

using longhaul::testing::CudaTest;
using longhaul::testing::DeviceArray;
using longhaul::testing::FreshRandom;
using longhaul::testing::Near;
using longhaul::testing::Normal;
using longhaul::testing::Uniform;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Row {
  std::vector<float> logits;
  int32_t token = 0;
  int32_t num_top = 0;
};

class LogprobsCudaTest : public CudaTest {
 protected:
  std::vector<LogprobsCudaResult> LogprobsOf(const std::vector<Row>& rows) {
    const int64_t vocab = static_cast<int64_t>(rows[0].logits.size());
    std::vector<float> all;
    for (const Row& row : rows) all.insert(all.end(), row.logits.begin(), row.logits.end());
    const DeviceArray<float> logits(all);
    std::vector<LogprobsCudaRow> of_device;
    for (const Row& row : rows) {
      const auto place = static_cast<int64_t>(of_device.size());
      of_device.push_back({logits.data() + place * vocab, row.token, row.num_top});
    }
    const DeviceArray<LogprobsCudaRow> device_rows(of_device);
    const auto num_rows = static_cast<int32_t>(rows.size());
    const auto vocab_size = static_cast<int32_t>(vocab);
    const DeviceArray<uint8_t> workspace(
        static_cast<int64_t>(LogprobsCudaWorkspaceBytes(vocab_size, num_rows)));
    const DeviceArray<LogprobsCudaResult> results(num_rows);
    EXPECT_EQ(LogprobsCuda({.rows = device_rows.data(),
                            .num_rows = num_rows,
                            .vocab_size = vocab_size,
                            .workspace = workspace.data(),
                            .results = results.data()},
                           stream()),
              KernelStatus::kOk);
    Sync();
    return results.Download();
  }
};

TEST_F(LogprobsCudaTest, EqualTheReferenceOverRandomRows) {
  std::mt19937_64 random = FreshRandom();
  for (const int64_t vocab : {1, 2, 19, 20, 21, 31, 2048, 4095, 4096, 4097, 152'064}) {
    std::vector<Row> rows(vocab > 10'000 ? 20 : 100);
    for (Row& row : rows) {
      row.logits = Normal(random, vocab, std::vector<float>{0.01f, 2, 30}[Uniform(random, 0, 2)]);
      if (Uniform(random, 0, 1) == 1) {  // many ties
        for (float& logit : row.logits) logit = std::round(logit);
      }
      if (Uniform(random, 0, 3) == 0) std::sort(row.logits.begin(), row.logits.end());
      for (int64_t t = 0; t < vocab / 8; ++t) {
        row.logits[Uniform(random, 0, vocab - 1)] = -kInfinity;
      }
      row.logits[Uniform(random, 0, vocab - 1)] = 1;
      row.token = static_cast<int32_t>(Uniform(random, 0, vocab - 1));
      row.num_top = static_cast<int32_t>(Uniform(random, 0, kMaxTopLogprobs));
    }
    const std::vector<LogprobsCudaResult> got = LogprobsOf(rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << "vocabulary " << vocab << " row " << i);
      Logprobs want;
      ASSERT_EQ(LogprobsRef({.logits = rows[i].logits.data(),
                             .vocab_size = static_cast<int32_t>(vocab),
                             .token = rows[i].token,
                             .num_top = rows[i].num_top},
                            &want),
                KernelStatus::kOk);
      ASSERT_EQ(got[i].status, KernelStatus::kOk);
      ASSERT_EQ(got[i].logprobs.num_top, want.num_top);
      std::vector<float> got_values = {got[i].logprobs.logprob};
      std::vector<float> want_values = {want.logprob};
      for (int32_t t = 0; t < want.num_top; ++t) {
        ASSERT_EQ(got[i].logprobs.top_ids[t], want.top_ids[t]) << "place " << t;
        got_values.push_back(got[i].logprobs.top_logprobs[t]);
        want_values.push_back(want.top_logprobs[t]);
      }
      for (size_t v = 0; v < want_values.size(); ++v) {
        ASSERT_LE(got_values[v], 0);
        if (want_values[v] != -kInfinity) continue;
        ASSERT_EQ(got_values[v], -kInfinity);
        got_values[v] = want_values[v] = 0;
      }
      ASSERT_TRUE(Near(got_values, want_values, longhaul::testing::kLogprobTolerance));
    }
  }
}

TEST_F(LogprobsCudaTest, LogitsFarApartNeitherOverflowNorVanish) {
  const float largest = std::numeric_limits<float>::max();
  const std::vector<LogprobsCudaResult> got =
      LogprobsOf({{{largest, 0}, 0, 0}, {{largest, 0}, 1, 0}, {{-largest, -largest}, 1, 0}});
  EXPECT_EQ(got[0].logprobs.logprob, 0);
  EXPECT_EQ(got[1].logprobs.logprob, -largest);
  EXPECT_EQ(got[2].logprobs.logprob, -std::log(2.0f));
}

TEST_F(LogprobsCudaTest, ARowsFailureIsItsOwn) {
  const std::vector<LogprobsCudaResult> got = LogprobsOf({{{1, 2}, 0, 1},
                                                          {{1, std::nanf("")}, 0, 1},
                                                          {{kInfinity, 2}, 0, 1},
                                                          {{-kInfinity, -kInfinity}, 0, 1},
                                                          {{1, 2}, 2, 1},
                                                          {{1, 2}, -1, 1},
                                                          {{1, 2}, 0, 21},
                                                          {{1, 2}, 0, -1},
                                                          {{1, 2}, 1, 1}});
  const KernelStatus want[] = {KernelStatus::kOk,
                               KernelStatus::kNotFinite,
                               KernelStatus::kNotFinite,
                               KernelStatus::kNotFinite,
                               KernelStatus::kInvalidArgument,
                               KernelStatus::kInvalidArgument,
                               KernelStatus::kInvalidArgument,
                               KernelStatus::kInvalidArgument,
                               KernelStatus::kOk};
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i].status, want[i]) << i;
  EXPECT_EQ(got[8].logprobs.top_ids[0], 1);
}

TEST_F(LogprobsCudaTest, ARowsBitsDependOnThatRowAlone) {
  std::mt19937_64 random = FreshRandom();
  std::vector<Row> rows(150);  // several turns
  for (Row& row : rows) row = {Normal(random, 9000, 3), 77, 20};
  const std::vector<LogprobsCudaResult> whole = LogprobsOf(rows);
  for (const size_t i : {0, 63, 64, 149}) {
    const LogprobsCudaResult alone = LogprobsOf({rows[i]})[0];
    using Bytes = std::array<uint8_t, sizeof(LogprobsCudaResult)>;
    EXPECT_EQ(std::bit_cast<Bytes>(alone), std::bit_cast<Bytes>(whole[i])) << i;
  }
}

TEST_F(LogprobsCudaTest, RefusesSizesOutsideTheContract) {
  EXPECT_EQ(LogprobsCuda({.num_rows = 0, .vocab_size = 5}, stream()), KernelStatus::kOk);
  EXPECT_EQ(LogprobsCuda({.num_rows = 1, .vocab_size = 5}, stream()),
            KernelStatus::kInvalidArgument);
  EXPECT_EQ(LogprobsCuda({.num_rows = -1, .vocab_size = 5}, stream()),
            KernelStatus::kInvalidArgument);
  EXPECT_EQ(LogprobsCuda({.num_rows = 0, .vocab_size = 0}, stream()),
            KernelStatus::kInvalidArgument);
}

}  // namespace
}  // namespace longhaul::kernels
