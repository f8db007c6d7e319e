// Logprobs of a prompt through all three regions of Dual Chunk Attention: those of the logits of
// the same prompt run token by token, for any cutting bit for bit.
#include <cmath>
#include <iostream>
#include <random>

#include "tests/testing/golden.h"
#include "tests/testing/model_runner.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace longhaul::testing {
namespace {

using worker::backend::KvDType;

constexpr int64_t kPromptTokens = 1500;

class PromptLogprobs : public ::testing::TestWithParam<KvDType> {
 protected:
  PromptLogprobs() { TinyModel{}.Write(folder_.path()); }

  std::unique_ptr<ModelRunner> NewRunner(int64_t rows_per_tile) {
    auto runner = ModelRunner::Create({.model_dir = folder_.path(),
                                       .kv_dtype = GetParam(),
                                       .threads = 2,
                                       .max_tokens = kPromptTokens,
                                       .max_logits_bytes = rows_per_tile * 300 * 4});
    CHECK(runner.ok()) << runner.status();
    return *std::move(runner);
  }

  const TempDir folder_;
  const std::vector<TokenId> prompt_ = SplitMixTokens(9, kPromptTokens, 290);
};

TEST_P(PromptLogprobs, AreThoseOfTheTokensRunOneByOne) {
  const auto runner = NewRunner(100);
  ASSERT_OK_AND_ASSIGN(const auto logits, runner->LogitsBehindEach(prompt_));
  ASSERT_OK_AND_ASSIGN(const auto scored, runner->PromptLogprobs(prompt_, 1));
  ASSERT_EQ(scored.size(), prompt_.size() - 1);
  double worst = 0;
  for (size_t i = 0; i < scored.size(); ++i) {
    double sum = 0;
    for (const float logit : logits[i]) sum += std::exp(double{logit});
    const TokenId next = prompt_[i + 1];
    ASSERT_EQ(scored[i].token, next);
    worst = std::max(worst, std::abs(*scored[i].logprob - (logits[i][next] - std::log(sum))));
    const auto best = std::max_element(logits[i].begin(), logits[i].end()) - logits[i].begin();
    ASSERT_EQ(scored[i].top_logprobs[0].token, best) << "position " << i + 1;
  }
  EXPECT_LT(worst, 2e-6);
}

TEST_P(PromptLogprobs, DoNotDependOnHowThePromptWasCut) {
  const uint32_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937 random(seed);
  ASSERT_OK_AND_ASSIGN(const auto whole, NewRunner(kPromptTokens)->PromptLogprobs(prompt_, 2));
  for (int i = 0; i < 8; ++i) {
    ModelRunner::Cuts cuts;
    for (int64_t cut = 0; cut < kPromptTokens; cut += cuts.chunks.back()) {
      cuts.chunks.push_back(1 + static_cast<int64_t>(random() % 600));
    }
    for (const int32_t layer : {1, 2}) {
      if (random() % 2 == 0) cuts.layers.push_back(layer);
    }
    const int64_t rows = 1 + static_cast<int64_t>(random() % 300);
    ASSERT_OK_AND_ASSIGN(const auto cut, NewRunner(rows)->PromptLogprobs(prompt_, 2, cuts));
    ASSERT_EQ(cut.size(), whole.size());
    for (size_t t = 0; t < whole.size(); ++t) {
      ASSERT_EQ(cut[t].token, whole[t].token);
      ASSERT_EQ(*cut[t].logprob, *whole[t].logprob) << "position " << t + 1;
      for (size_t top = 0; top < 2; ++top) {
        ASSERT_EQ(cut[t].top_logprobs[top].token, whole[t].top_logprobs[top].token);
        ASSERT_EQ(cut[t].top_logprobs[top].logprob, whole[t].top_logprobs[top].logprob);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(KvTypes, PromptLogprobs,
                         ::testing::Values(KvDType::kFloat32, KvDType::kBFloat16),
                         [](const auto& test) {
                           return test.param == KvDType::kFloat32 ? "fp32" : "bf16";
                         });

}  // namespace
}  // namespace longhaul::testing
