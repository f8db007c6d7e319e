// The whole demo model against the NumPy reference of Dual Chunk Attention (tests/data).
#include <iostream>

#include "tests/testing/golden.h"
#include "tests/testing/model_runner.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::testing {
namespace {

constexpr uint64_t kOrdinaryTokens = 2040;

// fp32 against float64 through four layers, logits of size 10 to 30. A wrong distance or
// temperature is off by 0.1 and more.
constexpr double kMaxAbs = 2e-4;

class DcaLogits : public ::testing::TestWithParam<AttentionTemperature> {};

TEST_P(DcaLogits, MatchTheReferenceAroundEveryBoundary) {
  const Golden golden("dca_logits.safetensors");
  const std::vector<int32_t> cases = golden.Ints("cases");
  const std::vector<float> logits = golden.Floats("logits");
  ASSERT_OK_AND_ASSIGN(auto runner, ModelRunner::Create({.model_dir = SourcePath("models/demo"),
                                                         .attention = {.temperature = GetParam()},
                                                         .max_tokens = 16384}));
  const size_t vocab_size = static_cast<size_t>(runner->config().vocab_size);
  int checked = 0;
  for (size_t i = 0; i * 3 < cases.size(); ++i) {
    const int32_t length = cases[i * 3];
    if (cases[i * 3 + 1] != static_cast<int32_t>(GetParam())) continue;
    // Up to original_max both temperatures are 1: the shorter lengths need one mode only.
    if (GetParam() == AttentionTemperature::kRequest && length < 4096) continue;
    const auto ids = SplitMixTokens(cases[i * 3 + 2], length, kOrdinaryTokens);
    ASSERT_OK_AND_ASSIGN(const auto output, runner->Generate(ids, 1, {.chunks = {2048}}));
    const double difference =
        MaxAbsDifference(output.logits.front().data(), logits.data() + i * vocab_size, vocab_size);
    EXPECT_LE(difference, kMaxAbs) << length << " tokens";
    std::cout << length << " tokens: max abs " << difference << "\n";
    ++checked;
  }
  EXPECT_GE(checked, GetParam() == AttentionTemperature::kPosition ? 16 : 8);
}

INSTANTIATE_TEST_SUITE_P(Temperatures, DcaLogits,
                         ::testing::Values(AttentionTemperature::kPosition,
                                           AttentionTemperature::kRequest),
                         [](const auto& test) {
                           return test.param == AttentionTemperature::kPosition ? "position"
                                                                                : "request";
                         });

}  // namespace
}  // namespace longhaul::testing
