// A small model on a CUDA device against the same one on the CPU. Self-contained: it may run on
// another machine than the one it was built on.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "tests/testing/cuda_testing.h"
#include "tests/testing/forwarding_backend.h"
#include "tests/testing/golden.h"
#include "tests/testing/model_runner.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"
#include "worker/backend/cpu_backend.h"
#include "worker/backend/cuda_backend.h"

namespace longhaul::testing {
namespace {

using worker::backend::Backend;
using worker::backend::KvDType;
using worker::model::Qwen2;

// Segments of 512: the longest prompt is in its tenth. Sizes are what linear layers of CUDA devices
// take: multiples of 8.
constexpr TinyModel kModel{.type = worker::model::StoredType::kBF16,
                           .num_kv_heads = 2,
                           .vocab_size = 304,
                           .max_position_embeddings = 16'384};
// The longest prompt of a test, and tokens behind it.
constexpr int64_t kMaxTokens = 8704;

// Logits on a CUDA device against the CPU's. The device rounds what each op writes to bf16 (8
// bits), the CPU to fp32; weights and KV are bf16 on both. What that rounding does by itself
// (RoundingBackend): rows differ by 1.9 % on average, root of mean squares against that of the
// logits, a row by 5.3 % at most, a logit (of size 1.4) by 0.22, of 278 rows of four models. About
// twice that.
constexpr double kLogitTolerance = 0.5;
constexpr double kMeanTolerance = 0.04;

// fp32 ops whose results are rounded to bf16: what a CUDA device computes, but for the order of
// sums.
class RoundingBackend final : public ForwardingBackend {
 public:
  RoundingBackend() : ForwardingBackend(worker::backend::MakeCpuBackend(2)) {}

  absl::Status RmsNorm(TensorView x, TensorView weight, double eps, TensorView out) override {
    return Rounded(ForwardingBackend::RmsNorm(x, weight, eps, out), out);
  }
  absl::Status Linear(TensorView x, const LinearWeight& linear, TensorView y) override {
    const absl::Status done = ForwardingBackend::Linear(x, linear, y);
    return linear.weight.rows == kModel.vocab_size ? done : Rounded(done, y);
  }
  absl::Status LinearAdd(TensorView x, TensorView weight, TensorView y) override {
    return Rounded(ForwardingBackend::LinearAdd(x, weight, y), y);
  }
  absl::Status SiluMul(TensorView gate_up, TensorView out) override {
    return Rounded(ForwardingBackend::SiluMul(gate_up, out), out);
  }
  absl::Status RotateAndStore(TensorView qkv, const RowPlan& plan, const KvLayer& kv,
                              const RotatedQueries& queries) override {
    absl::Status done = ForwardingBackend::RotateAndStore(qkv, plan, kv, queries);
    for (const TensorView& query : {queries.intra, queries.succ, queries.inter}) {
      done = Rounded(done, query.Rows(0, qkv.rows));
    }
    return done;
  }
  absl::Status Attend(const RotatedQueries& queries, const RowPlan& plan, const KvLayer& kv,
                      TensorView out) override {
    return Rounded(ForwardingBackend::Attend(queries, plan, kv, out), out);
  }

 private:
  static absl::Status Rounded(absl::Status done, TensorView out) {
    for (float& value : std::span(out.f32(), static_cast<size_t>(out.size()))) {
      value = kernels::BFloat16ToFloat(kernels::FloatToBFloat16(value));
    }
    return done;
  }
};

size_t Top(const std::vector<float>& logits) {
  return static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Rows of logits that should be near.
class Differences {
 public:
  void Add(const std::vector<float>& actual, const std::vector<float>& expected) {
    ASSERT_EQ(actual.size(), expected.size());
    double squares = 0;
    double size = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double difference = double{actual[i]} - expected[i];
      ASSERT_TRUE(std::isfinite(difference)) << "row " << rows_ << " logit " << i;
      squares += difference * difference;
      size += double{expected[i]} * expected[i];
      largest_ = std::max(largest_, std::abs(difference));
    }
    ++rows_;
    sum_ += std::sqrt(squares / size);
  }
  // Of greedy generation: as long as the tokens before a row were the same.
  void Add(const ModelRunner::Output& actual, const ModelRunner::Output& expected) {
    ASSERT_EQ(actual.logits.size(), expected.logits.size());
    for (size_t step = 0; step < expected.logits.size(); ++step) {
      const std::vector<float>& a = actual.logits[step];
      const std::vector<float>& b = expected.logits[step];
      Add(a, b);
      const size_t top = Top(b);
      if (Top(a) == top) continue;
      // A matter of luck only where the two are as near as that.
      EXPECT_LE(b[top] - b[Top(a)], 2 * kLogitTolerance) << "step " << step;
      return;
    }
  }
  void Report(const std::string& what) const {
    std::cout << what << ": " << rows_ << " rows, mean " << sum_ / rows_ << ", largest " << largest_
              << "\n";
  }
  void Check(const std::string& what) const {
    Report(what);
    EXPECT_LE(sum_ / rows_, kMeanTolerance) << what;
    EXPECT_LE(largest_, kLogitTolerance) << what;
  }

 private:
  int rows_ = 0;
  double sum_ = 0;  // of rows' relative differences
  double largest_ = 0;
};

class CudaModel : public CudaTest {
 protected:
  CudaModel() {
    TinyModel model = kModel;
    model.seed = std::random_device{}();
    std::cout << "seed " << model.seed << "\n";
    model.Write(folder_.path());
    prompt_ = SplitMixTokens(model.seed, kMaxTokens, kModel.vocab_size);
  }
  // Skips what needs the device alone.
  void SetUp() override {}
  void NeedDevice() { CudaTest::SetUp(); }

  std::unique_ptr<ModelRunner> Runner(std::unique_ptr<Backend> backend) {
    auto runner = ModelRunner::Create({.model_dir = folder_.path(),
                                       .kv_dtype = KvDType::kBFloat16,
                                       .threads = 2,
                                       .max_tokens = kMaxTokens,
                                       .host_slots = 2},
                                      std::move(backend));
    CHECK(runner.ok()) << runner.status();
    return *std::move(runner);
  }
  std::unique_ptr<ModelRunner> CpuRunner() { return Runner(worker::backend::MakeCpuBackend(2)); }
  std::unique_ptr<ModelRunner> CudaRunner() {
    auto backend = worker::backend::MakeCudaBackend(0);
    CHECK(backend.ok()) << backend.status();
    return Runner(*std::move(backend));
  }
  std::span<const TokenId> Prompt(int64_t tokens) const {
    return std::span(prompt_).first(static_cast<size_t>(tokens));
  }

  const TempDir folder_;
  std::vector<TokenId> prompt_;
};

TEST_F(CudaModel, RoundingOfMatricesIsWithinTheTolerance) {
  const auto exact = CpuRunner();
  const auto rounded = Runner(std::make_unique<RoundingBackend>());
  Differences differences;
  for (const int64_t tokens : {1, 2, 5, 20, 50, 100, 130, 160, 200, 300, 500, 700, 1100, 1500}) {
    ASSERT_OK_AND_ASSIGN(const auto expected, exact->Generate(Prompt(tokens), 3));
    ASSERT_OK_AND_ASSIGN(const auto actual, rounded->Generate(Prompt(tokens), 3));
    differences.Add(actual, expected);
  }
  differences.Check("rounded");
}

TEST_F(CudaModel, GivesTheLogitsOfTheCpu) {
  NeedDevice();
  if (IsSkipped()) return;
  const auto cpu = CpuRunner();
  const auto cuda = CudaRunner();
  Differences differences;
  for (const int64_t tokens : {1, 2, 100, 127, 128, 129, 256, 257, 300, 511, 513, 1500, 5000}) {
    ASSERT_OK_AND_ASSIGN(const auto expected, cpu->Generate(Prompt(tokens), 4));
    ASSERT_OK_AND_ASSIGN(const auto actual, cuda->Generate(Prompt(tokens), 4));
    Differences one;
    one.Add(actual, expected);
    one.Report("prompt " + std::to_string(tokens));
    differences.Add(actual, expected);
  }
  differences.Check("prefill");
}

TEST_F(CudaModel, DecodesWhatTheCpuDoes) {
  NeedDevice();
  if (IsSkipped()) return;
  // Over the border of a tile, a block and two segments.
  ASSERT_OK_AND_ASSIGN(const auto expected, CpuRunner()->LogitsBehindEach(Prompt(1100)));
  ASSERT_OK_AND_ASSIGN(const auto actual, CudaRunner()->LogitsBehindEach(Prompt(1100)));
  ASSERT_EQ(actual.size(), expected.size());
  Differences differences;
  for (size_t i = 0; i < actual.size(); ++i) differences.Add(actual[i], expected[i]);
  differences.Check("decode");
}

TEST_F(CudaModel, LogitsDoNotDependOnHowAPromptWasCut) {
  NeedDevice();
  if (IsSkipped()) return;
  const auto cuda = CudaRunner();
  // Each chunk has 128 rows at least: below that a row's bits may depend on how many there are.
  const auto prompt = Prompt(4992);
  ASSERT_OK_AND_ASSIGN(const auto whole, cuda->Generate(prompt, 3));
  const std::vector<ModelRunner::Cuts> cuts = {{.chunks = {128}},
                                               {.chunks = {256}},
                                               {.chunks = {2496}},
                                               {.chunks = {129, 1000, 131, 3732}},
                                               {.chunks = {512, 640, 3840}, .layers = {1, 2}},
                                               {.chunks = {}, .layers = {2}}};
  for (size_t i = 0; i < cuts.size(); ++i) {
    ASSERT_OK_AND_ASSIGN(const auto cut, cuda->Generate(prompt, 3, cuts[i]));
    ASSERT_EQ(cut.tokens, whole.tokens) << "cuts " << i;
    for (size_t step = 0; step < whole.logits.size(); ++step) {
      EXPECT_TRUE(SameBits(cut.logits[step], whole.logits[step])) << "cuts " << i;
    }
  }
}

// Which cuts give the same bits on a device: linear layers have one algorithm for all calls of
// kFewRows rows or more, and all else is computed row by row. So do all cuts whose units have that
// many rows. An MLP takes a unit's rows kMlpRows at a time, and its last tile takes some of the
// tile before it rather than have too few: how a unit ends there is seen in no bit either. Rows of
// a smaller unit may differ, within the rounding of bf16; those before it may not.
//
// A cut of `tokens` tokens, all of whose units have kFewRows rows. The last one has one more: rows
// whose successors are scored, which its last row has not, go through the head together.
struct ManyRows {
  int64_t tokens;
  std::vector<int64_t> chunks;
};

// Of every row, not the last one alone.
void ExpectSameLogprobs(ModelRunner& runner, std::span<const TokenId> prompt,
                        const std::vector<int64_t>& chunks) {
  ASSERT_OK_AND_ASSIGN(const auto expected, runner.PromptLogprobs(prompt, 1));
  ASSERT_OK_AND_ASSIGN(const auto actual, runner.PromptLogprobs(prompt, 1, {.chunks = chunks}));
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(*actual[i].logprob, *expected[i].logprob) << "row " << i;
  }
}

void ExpectSameLogits(ModelRunner& runner, std::span<const TokenId> prompt,
                      const std::vector<int64_t>& chunks) {
  ASSERT_OK_AND_ASSIGN(const auto whole, runner.Generate(prompt, 2));
  ASSERT_OK_AND_ASSIGN(const auto cut, runner.Generate(prompt, 2, {.chunks = chunks}));
  ASSERT_EQ(cut.tokens, whole.tokens);
  for (size_t step = 0; step < whole.logits.size(); ++step) {
    EXPECT_TRUE(SameBits(cut.logits[step], whole.logits[step])) << "step " << step;
  }
}

TEST_F(CudaModel, TheLastRowsOfAnMlpAreOnTheCpuAsAnyOthers) {
  ExpectSameLogprobs(*CpuRunner(), Prompt(Qwen2::kMlpRows + 58), {Qwen2::kMlpRows, 58});
}

TEST_F(CudaModel, TheLastRowsOfAnMlpAreAsAnyOthers) {
  NeedDevice();
  if (IsSkipped()) return;
  constexpr int64_t kMlp = Qwen2::kMlpRows;
  constexpr int64_t kFew = Qwen2::kFewRows;
  const auto cuda = CudaRunner();
  const ManyRows cuts[] = {{kMlp + 58, {kMlp - kFew, kFew + 58}},  // the MLP's own tiles
                           {kMlp + 58, {kMlp + 57 - kFew, kFew + 1}},
                           {kMlp + 58, {kFew, kMlp + 58 - kFew}},
                           {kMlp + 58, {kMlp / 2 + 29}},
                           {kMlp - 1, {kMlp - 2 - kFew, kFew + 1}},  // units of one tile
                           {kMlp, {kMlp - 1 - kFew, kFew + 1}},
                           {kMlp + 1, {kMlp - kFew, kFew + 1}},  // a rest of 1, and the most
                           {kMlp + kFew - 1, {kMlp / 2, kMlp / 2 + kFew - 1}},
                           {kMlp + kFew, {kMlp / 2, kMlp / 2 + kFew}},  // enough for a tile
                           {kMlp + kFew + 1, {kMlp, kFew + 1}}};
  for (const ManyRows& cut : cuts) {
    SCOPED_TRACE(std::to_string(cut.tokens) + " tokens, first " + std::to_string(cut.chunks[0]));
    ExpectSameLogits(*cuda, Prompt(cut.tokens), cut.chunks);
    ExpectSameLogprobs(*cuda, Prompt(cut.tokens), cut.chunks);
  }
}

TEST_F(CudaModel, ALastUnitOfFewRowsIsWithinTheToleranceAndChangesNoneBefore) {
  NeedDevice();
  if (IsSkipped()) return;
  constexpr int64_t kFirst = Qwen2::kMlpRows;
  const auto cuda = CudaRunner();
  for (const int64_t rest : {1, 2, 58, 127}) {
    const auto prompt = Prompt(kFirst + rest);
    const ModelRunner::Cuts cuts = {.chunks = {kFirst, rest}};
    ASSERT_OK_AND_ASSIGN(const auto whole, cuda->Generate(prompt, 3));
    ASSERT_OK_AND_ASSIGN(const auto cut, cuda->Generate(prompt, 3, cuts));
    Differences differences;
    differences.Add(cut, whole);
    differences.Check("a last unit of " + std::to_string(rest));
    ASSERT_OK_AND_ASSIGN(const auto expected, cuda->PromptLogprobs(prompt, 1));
    ASSERT_OK_AND_ASSIGN(const auto actual, cuda->PromptLogprobs(prompt, 1, cuts));
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      if (i < static_cast<size_t>(kFirst)) {
        ASSERT_EQ(*actual[i].logprob, *expected[i].logprob) << "rest " << rest << " row " << i;
      } else {
        EXPECT_NEAR(*actual[i].logprob, *expected[i].logprob, 2 * kLogitTolerance) << i;
      }
    }
  }
}

TEST_F(CudaModel, SmallChunksGiveTheSameWithinTheTolerance) {
  NeedDevice();
  if (IsSkipped()) return;
  const auto cuda = CudaRunner();
  ASSERT_OK_AND_ASSIGN(const auto whole, cuda->Generate(Prompt(1300), 2));
  ASSERT_OK_AND_ASSIGN(const auto cut,
                       cuda->Generate(Prompt(1300), 2, {.chunks = {1, 7, 250, 99, 123}}));
  Differences differences;
  differences.Add(cut, whole);
  differences.Check("small chunks");
}

TEST_F(CudaModel, ScoresAPromptAsTheCpuDoes) {
  NeedDevice();
  if (IsSkipped()) return;
  ASSERT_OK_AND_ASSIGN(const auto expected, CpuRunner()->PromptLogprobs(Prompt(700), 3));
  ASSERT_OK_AND_ASSIGN(const auto actual, CudaRunner()->PromptLogprobs(Prompt(700), 3));
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_EQ(actual[i].token, expected[i].token);
    EXPECT_NEAR(*actual[i].logprob, *expected[i].logprob, 2 * kLogitTolerance) << i;
    EXPECT_EQ(actual[i].top_logprobs.size(), 3u);
  }
}

}  // namespace
}  // namespace longhaul::testing
