#include "router/resolve_sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "router/error_detail.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::router {
namespace {

using longhaul::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr RequestLimits kLimits = {.vocab_size = 1000, .max_model_len = 20'000};

absl::StatusOr<SamplingParams> Resolve(const SamplingOptions& options,
                                       const GenerationDefaults& defaults = {}) {
  return ResolveSampling(options, defaults, kLimits, /*drawn_seed=*/99);
}

TEST(ResolveSampling, FillsGapsFromTheModel) {
  const GenerationDefaults defaults{.do_sample = true,
                                    .temperature = 0.7,
                                    .top_p = 0.8,
                                    .top_k = 20,
                                    .repetition_penalty = 1.05,
                                    .eos_token_ids = {}};
  ASSERT_OK_AND_ASSIGN(const SamplingParams params, Resolve({}, defaults));
  EXPECT_FLOAT_EQ(params.temperature, 0.7f);
  EXPECT_FLOAT_EQ(params.top_p, 0.8f);
  EXPECT_EQ(params.top_k, 20);
  EXPECT_FLOAT_EQ(params.repetition_penalty, 1.05f);
  EXPECT_EQ(params.min_p, 0);
  EXPECT_EQ(params.seed, 99u);
  EXPECT_FALSE(params.top_logprobs.has_value());
}

TEST(ResolveSampling, AModelThatDoesNotSampleIsGreedyUnlessAsked) {
  const GenerationDefaults defaults{.do_sample = false, .temperature = 0.7, .eos_token_ids = {}};
  ASSERT_OK_AND_ASSIGN(const SamplingParams greedy, Resolve({}, defaults));
  EXPECT_EQ(greedy.temperature, 0);
  ASSERT_OK_AND_ASSIGN(const SamplingParams sampled, Resolve({.temperature = 1.5}, defaults));
  EXPECT_FLOAT_EQ(sampled.temperature, 1.5f);
}

TEST(ResolveSampling, ChecksEveryRangeAtItsEdges) {
  struct Case {
    const char* field;
    std::function<void(SamplingOptions&)> set;
    bool valid;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  const auto temperature = [](double v) { return [v](SamplingOptions& o) { o.temperature = v; }; };
  const auto top_p = [](double v) { return [v](SamplingOptions& o) { o.top_p = v; }; };
  const auto top_k = [](int64_t v) { return [v](SamplingOptions& o) { o.top_k = v; }; };
  const auto min_p = [](double v) { return [v](SamplingOptions& o) { o.min_p = v; }; };
  const auto repetition = [](double v) {
    return [v](SamplingOptions& o) { o.repetition_penalty = v; };
  };
  const auto presence = [](double v) {
    return [v](SamplingOptions& o) { o.presence_penalty = v; };
  };
  const auto frequency = [](double v) {
    return [v](SamplingOptions& o) { o.frequency_penalty = v; };
  };
  const auto bias = [](TokenId id, float v) {
    return [id, v](SamplingOptions& o) { o.logit_bias = {{id, v}}; };
  };
  const auto logprobs = [](int64_t v) { return [v](SamplingOptions& o) { o.top_logprobs = v; }; };
  const Case cases[] = {
      {"temperature", temperature(0), true},
      {"temperature", temperature(2), true},
      {"temperature", temperature(-0.001), false},
      {"temperature", temperature(2.001), false},
      {"temperature", temperature(nan), false},
      {"temperature", temperature(inf), false},
      {"top_p", top_p(1), true},
      {"top_p", top_p(1e-300), true},
      {"top_p", top_p(0), false},
      {"top_p", top_p(1.01), false},
      {"top_k", top_k(-1), true},
      {"top_k", top_k(0), true},
      {"top_k", top_k(1000), true},
      {"top_k", top_k(1001), false},
      {"top_k", top_k(-2), false},
      {"top_k", top_k(int64_t{1} << 40), false},
      {"min_p", min_p(0), true},
      {"min_p", min_p(1), true},
      {"min_p", min_p(-0.1), false},
      {"repetition_penalty", repetition(10), true},
      {"repetition_penalty", repetition(0), false},
      {"repetition_penalty", repetition(10.5), false},
      {"presence_penalty", presence(-2), true},
      {"presence_penalty", presence(2.1), false},
      {"frequency_penalty", frequency(2), true},
      {"frequency_penalty", frequency(-2.1), false},
      {"logit_bias", bias(999, 100), true},
      {"logit_bias", bias(1000, 1), false},
      {"logit_bias", bias(-1, 1), false},
      {"logit_bias", bias(5, -100.5f), false},
      {"top_logprobs", logprobs(0), true},
      {"top_logprobs", logprobs(20), true},
      {"top_logprobs", logprobs(21), false},
      {"top_logprobs", logprobs(-1), false},
  };
  for (size_t i = 0; i < std::size(cases); ++i) {
    SamplingOptions options;
    cases[i].set(options);
    const auto resolved = Resolve(options);
    SCOPED_TRACE(::testing::Message()
                 << "case " << i << " " << cases[i].field << " " << resolved.status());
    EXPECT_EQ(resolved.ok(), cases[i].valid);
    if (cases[i].valid) continue;
    EXPECT_EQ(resolved.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(DetailOf(resolved.status()).field, cases[i].field);
    EXPECT_THAT(std::string(resolved.status().message()), HasSubstr(cases[i].field));
  }
}

TEST(ResolveSampling, ATinyPositiveValueDoesNotBecomeZero) {
  ASSERT_OK_AND_ASSIGN(const SamplingParams params, Resolve({.top_p = 1e-300}));
  EXPECT_GT(params.top_p, 0);
}

TEST(ResolveSampling, NamesTheTokenOfABadBias) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  struct Case {
    TokenId token;
    float bias;
    const char* message;
  };
  const Case cases[] = {
      {5, nan, "logit_bias of token 5 is nan, must be in [-100, 100]"},
      {6, -inf, "logit_bias of token 6 is -inf, must be in [-100, 100]"},
      {7, 100.5f, "logit_bias of token 7 is 100.5, must be in [-100, 100]"},
      {1000, 1, "logit_bias has token id 1000, must be in [0, 1000) (vocabulary)"},
      // 2^32 - 1 as a client sends it.
      {-1, 1, "logit_bias has token id 4294967295, must be in [0, 1000) (vocabulary)"},
  };
  for (const Case& c : cases) {
    EXPECT_THAT(Resolve({.logit_bias = {{c.token, c.bias}}}),
                StatusIs(absl::StatusCode::kInvalidArgument, c.message));
  }
}

TEST(ResolveSampling, SortsLogitBiasAndRefusesTwins) {
  ASSERT_OK_AND_ASSIGN(const SamplingParams params,
                       Resolve({.logit_bias = {{30, 1.0f}, {10, -2.0f}}}));
  EXPECT_THAT(params.logit_bias, ElementsAre(Pair(10, -2.0f), Pair(30, 1.0f)));
  EXPECT_THAT(Resolve({.logit_bias = {{30, 1.0f}, {30, 2.0f}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("30 twice")));
}

TEST(ResolveSampling, NamesValueAndLimit) {
  EXPECT_THAT(Resolve({.temperature = 2.5}), StatusIs(absl::StatusCode::kInvalidArgument,
                                                      "temperature is 2.5, must be in [0, 2]"));
}

absl::StatusOr<StopParams> Stopping(std::function<void(GenerateRequest&)> change,
                                    int64_t prompt_tokens = 100) {
  GenerateRequest request;
  request.input = TextInput{};
  change(request);
  return ResolveStopping(request, kLimits, prompt_tokens);
}

TEST(ResolveStopping, MaxTokensDefaultsToTheRoomThatIsLeft) {
  const auto open = [](GenerateRequest&) {};
  EXPECT_EQ(Stopping(open, 100)->max_tokens, kDefaultMaxTokens);
  EXPECT_EQ(Stopping(open, 20'000 - 8192)->max_tokens, 8192);
  EXPECT_EQ(Stopping(open, 20'000 - 8191)->max_tokens, 8191);
  EXPECT_EQ(Stopping(open, 19'999)->max_tokens, 1);
}

TEST(ResolveStopping, APromptThatIsTooLongNamesTheLimit) {
  const auto open = [](GenerateRequest&) {};
  const auto too_long = Stopping(open, 20'001);
  EXPECT_THAT(too_long, StatusIs(absl::StatusCode::kInvalidArgument,
                                 "prompt has 20001 tokens, model limit 20000 (max_model_len)"));
  EXPECT_EQ(DetailOf(too_long.status()).field, "prompt");
  EXPECT_THAT(Stopping(open, 20'000),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no room for output")));
  EXPECT_OK(Stopping([](GenerateRequest& r) { r.max_tokens = 0; }, 20'000));
  const auto chat = Stopping([](GenerateRequest& r) { r.input = ChatInput{}; }, 20'001);
  EXPECT_EQ(DetailOf(chat.status()).field, "messages");
}

TEST(ResolveStopping, ChecksEveryField) {
  struct Case {
    const char* field;
    std::function<void(GenerateRequest&)> set;
    bool valid;
  };
  const Case cases[] = {
      {"max_tokens", [](GenerateRequest& r) { r.max_tokens = 19'900; }, true},
      {"max_tokens", [](GenerateRequest& r) { r.max_tokens = 19'901; }, false},
      {"max_tokens", [](GenerateRequest& r) { r.max_tokens = -1; }, false},
      {"max_tokens", [](GenerateRequest& r) { r.max_tokens = int64_t{1} << 40; }, false},
      {"min_tokens",
       [](GenerateRequest& r) {
         r.max_tokens = 5;
         r.min_tokens = 5;
       },
       true},
      {"min_tokens",
       [](GenerateRequest& r) {
         r.max_tokens = 5;
         r.min_tokens = 6;
       },
       false},
      {"stop_token_ids", [](GenerateRequest& r) { r.stop_token_ids.assign(64, 1); }, true},
      {"stop_token_ids", [](GenerateRequest& r) { r.stop_token_ids.assign(65, 1); }, false},
      {"stop_token_ids", [](GenerateRequest& r) { r.stop_token_ids = {1000}; }, false},
  };
  for (size_t i = 0; i < std::size(cases); ++i) {
    const auto resolved = Stopping(cases[i].set);
    SCOPED_TRACE(::testing::Message() << "case " << i << " " << resolved.status());
    EXPECT_EQ(resolved.ok(), cases[i].valid);
    if (!cases[i].valid) {
      EXPECT_EQ(DetailOf(resolved.status()).field, cases[i].field);
    }
  }
  EXPECT_EQ(DetailOf(Stopping([](GenerateRequest&) {}, 0).status()).field, "prompt");
}

TEST(CheckRequestShape, ChecksChoicesPriorityAndId) {
  struct Case {
    const char* field;
    std::function<void(GenerateRequest&)> set;
    bool valid;
  };
  const Case cases[] = {
      {"n", [](GenerateRequest& r) { r.num_choices = 16; }, true},
      {"n", [](GenerateRequest& r) { r.num_choices = 17; }, false},
      {"n", [](GenerateRequest& r) { r.num_choices = 0; }, false},
      {"priority", [](GenerateRequest& r) { r.priority = -100; }, true},
      {"priority", [](GenerateRequest& r) { r.priority = 101; }, false},
      {"request_id", [](GenerateRequest& r) { r.client_request_id.assign(128, 'x'); }, true},
      {"request_id", [](GenerateRequest& r) { r.client_request_id.assign(129, 'x'); }, false},
      {"request_id", [](GenerateRequest& r) { r.client_request_id = "a\nb"; }, false},
  };
  for (size_t i = 0; i < std::size(cases); ++i) {
    GenerateRequest request;
    cases[i].set(request);
    const absl::Status status = CheckRequestShape(request);
    SCOPED_TRACE(::testing::Message() << "case " << i << " " << status);
    EXPECT_EQ(status.ok(), cases[i].valid);
    if (!cases[i].valid) {
      EXPECT_EQ(DetailOf(status).field, cases[i].field);
    }
  }
}

}  // namespace
}  // namespace longhaul::router
