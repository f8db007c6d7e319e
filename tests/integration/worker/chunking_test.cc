// Logits do not depend on how a prompt was cut: bit for bit.
#include <cstring>
#include <tuple>

#include "tests/testing/golden.h"
#include "tests/testing/model_runner.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace longhaul::testing {
namespace {

using worker::backend::KvDType;

::testing::AssertionResult SameLogits(const ModelRunner::Output& actual,
                                      const ModelRunner::Output& expected) {
  if (actual.logits.size() != expected.logits.size()) {
    return ::testing::AssertionFailure() << actual.logits.size() << " steps";
  }
  for (size_t step = 0; step < expected.logits.size(); ++step) {
    const std::vector<float>& a = actual.logits[step];
    const std::vector<float>& b = expected.logits[step];
    if (std::memcmp(a.data(), b.data(), b.size() * sizeof(float)) != 0) {
      return ::testing::AssertionFailure()
             << "step " << step << ": max abs " << MaxAbsDifference(a.data(), b.data(), b.size());
    }
  }
  return ::testing::AssertionSuccess();
}

struct Model {
  const char* name;
  std::string folder;
  int64_t prompt_tokens;  // into the third segment: all three regions are in play
  int64_t segment;        // chunk_len
  std::vector<ModelRunner::Cuts> cuts;
};

const ::longhaul::testing::TempDir& TinyFolder() {
  static const TempDir folder;
  return folder;
}

// Everything on the small model, one hard case on the real one.
Model Tiny() {
  TinyModel{}.Write(TinyFolder().path());
  return {"tiny",
          TinyFolder().path(),
          1500,
          512,
          {{.chunks = {256}},
           {.chunks = {1, 7, 250, 99, 123}},
           {.chunks = {511, 2, 511, 300}},
           {.chunks = {}, .layers = {1, 2}},
           {.chunks = {400, 33}, .layers = {2}}}};
}
Model Demo() {
  return {"demo",
          SourcePath("models/demo"),
          6500,
          3072,
          {{.chunks = {3071, 2, 1000}, .layers = {1, 3}}}};
}

class Chunking : public ::testing::TestWithParam<std::tuple<Model (*)(), KvDType>> {
 protected:
  std::unique_ptr<ModelRunner> NewRunner(int threads) {
    auto runner = ModelRunner::Create({.model_dir = model_.folder,
                                       .kv_dtype = std::get<1>(GetParam()),
                                       .threads = threads,
                                       .max_tokens = model_.prompt_tokens + 300});
    CHECK(runner.ok()) << runner.status();
    return *std::move(runner);
  }
  const Model model_ = std::get<0>(GetParam())();
  const std::vector<TokenId> prompt_ = SplitMixTokens(7, model_.prompt_tokens, 290);
};

TEST_P(Chunking, ChangesNoBitOfAnyLogit) {
  const auto runner = NewRunner(2);
  ASSERT_OK_AND_ASSIGN(const auto whole, runner->Generate(prompt_, 3));
  for (size_t i = 0; i < model_.cuts.size(); ++i) {
    ASSERT_OK_AND_ASSIGN(const auto cut, runner->Generate(prompt_, 3, model_.cuts[i]));
    EXPECT_TRUE(SameLogits(cut, whole)) << "cuts " << i;
  }
}

TEST_P(Chunking, NumberOfThreadsChangesNoBit) {
  ASSERT_OK_AND_ASSIGN(const auto one, NewRunner(1)->Generate(prompt_, 2));
  ASSERT_OK_AND_ASSIGN(const auto three, NewRunner(3)->Generate(prompt_, 2));
  EXPECT_TRUE(SameLogits(three, one));
}

TEST_P(Chunking, ADecodedTokenGivesTheLogitsOfTheSameTokenInAPrompt) {
  const auto runner = NewRunner(2);
  // Around a segment's border too, where a decoded token finds other regions.
  for (const int64_t tokens : {int64_t{5}, int64_t{256}, model_.segment - 1, 2 * model_.segment}) {
    const std::span<const TokenId> prompt = std::span(prompt_).first(tokens);
    ASSERT_OK_AND_ASSIGN(const auto decoded, runner->Generate(prompt, 4));
    std::vector<TokenId> longer(prompt.begin(), prompt.end());
    longer.insert(longer.end(), decoded.tokens.begin(), decoded.tokens.begin() + 3);
    ASSERT_OK_AND_ASSIGN(const auto prefilled, runner->Generate(longer, 1));
    EXPECT_TRUE(SameLogits(prefilled, {{}, {decoded.logits.back()}})) << tokens << " tokens";
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Chunking,
                         ::testing::Combine(::testing::Values(&Tiny, &Demo),
                                            ::testing::Values(KvDType::kFloat32,
                                                              KvDType::kBFloat16)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param) == &Tiny ? "tiny_"
                                                                               : "demo_") +
                                  (std::get<1>(test.param) == KvDType::kFloat32 ? "fp32" : "bf16");
                         });

}  // namespace
}  // namespace longhaul::testing
