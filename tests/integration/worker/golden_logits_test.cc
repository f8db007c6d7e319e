// The demo model against Hugging Face transformers (tests/data/make_golden_logits.py).
#include <iostream>

#include "tests/testing/golden.h"
#include "tests/testing/model_runner.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::testing {
namespace {

// fp32 on both sides, in another order of summation; prompts whose margin between the two best
// tokens is below twice this are not among the golden ones.
constexpr double kMaxAbs = 2e-3;

TEST(GoldenLogits, AreThoseOfTransformersAndSoAreSixtyFourGreedyTokens) {
  const Golden golden("golden_logits.safetensors");
  const std::vector<int32_t> offsets = golden.Ints("offsets");
  const std::vector<int32_t> prompt_ids = golden.Ints("prompt_ids");
  const std::vector<int32_t> greedy_ids = golden.Ints("greedy_ids");
  const std::vector<int32_t> logit_steps = golden.Ints("logit_steps");
  const std::vector<float> logits = golden.Floats("logits");
  const size_t num_prompts = offsets.size() - 1;
  const size_t num_steps = greedy_ids.size() / num_prompts;
  ASSERT_EQ(num_prompts, 50u);
  ASSERT_EQ(num_steps, 64u);
  ASSERT_OK_AND_ASSIGN(auto runner, ModelRunner::Create({.model_dir = SourcePath("models/demo"),
                                                         .max_tokens = 8192}));
  const size_t vocab_size = static_cast<size_t>(runner->config().vocab_size);
  ASSERT_EQ(logits.size(), num_prompts * logit_steps.size() * vocab_size);

  double largest = 0;
  for (size_t i = 0; i < num_prompts; ++i) {
    const std::span<const TokenId> prompt =
        std::span(prompt_ids).subspan(offsets[i], offsets[i + 1] - offsets[i]);
    ASSERT_OK_AND_ASSIGN(const auto output, runner->Generate(prompt, static_cast<int>(num_steps)));
    const std::vector<TokenId> expected(greedy_ids.begin() + i * num_steps,
                                        greedy_ids.begin() + (i + 1) * num_steps);
    EXPECT_EQ(output.tokens, expected) << "prompt " << i << " of " << prompt.size() << " tokens";
    for (size_t j = 0; j < logit_steps.size(); ++j) {
      const double difference =
          MaxAbsDifference(output.logits[logit_steps[j]].data(),
                           logits.data() + (i * logit_steps.size() + j) * vocab_size, vocab_size);
      EXPECT_LE(difference, kMaxAbs) << "prompt " << i << " step " << logit_steps[j];
      largest = std::max(largest, difference);
    }
  }
  std::cout << num_prompts << " prompts: max abs " << largest << "\n";
}

}  // namespace
}  // namespace longhaul::testing
