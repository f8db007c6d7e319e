#include "worker/leader/stop_rule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace longhaul::worker::leader {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Verdict = StopRule::Verdict;

TEST(StopRule, JudgesEachToken) {
  const StopRule rule({100, 101});
  const struct {
    const char* name;
    StopParams stopping;
    size_t output_tokens;
    TokenId token;
    Verdict expected;
  } cases[] = {
      {"ordinary", {.max_tokens = 10, .stop_token_ids = {}}, 0, 5, Verdict::kContinue},
      {"the model's end", {.max_tokens = 10, .stop_token_ids = {}}, 0, 101, Verdict::kEndToken},
      {"the end wins over the length",
       {.max_tokens = 1, .stop_token_ids = {}},
       0,
       100,
       Verdict::kEndToken},
      {"last by length", {.max_tokens = 10, .stop_token_ids = {}}, 9, 5, Verdict::kLengthReached},
      {"one before", {.max_tokens = 10, .stop_token_ids = {}}, 8, 5, Verdict::kContinue},
      {"only one allowed", {.max_tokens = 1, .stop_token_ids = {}}, 0, 5, Verdict::kLengthReached},
      {"the request's own", {.max_tokens = 10, .stop_token_ids = {7}}, 3, 7, Verdict::kStopToken},
      {"end ignored",
       {.max_tokens = 10, .ignore_eos = true, .stop_token_ids = {}},
       3,
       100,
       Verdict::kContinue},
      {"end ignored, but asked for",
       {.max_tokens = 10, .ignore_eos = true, .stop_token_ids = {100}},
       3,
       100,
       Verdict::kStopToken},
      {"below the minimum",
       {.max_tokens = 10, .min_tokens = 4, .stop_token_ids = {7}},
       3,
       100,
       Verdict::kContinue},
      {"own stop below the minimum",
       {.max_tokens = 10, .min_tokens = 4, .stop_token_ids = {7}},
       3,
       7,
       Verdict::kContinue},
      {"at the minimum",
       {.max_tokens = 10, .min_tokens = 4, .stop_token_ids = {}},
       4,
       100,
       Verdict::kEndToken},
  };
  for (const auto& c : cases) {
    Request request;
    request.stopping = c.stopping;
    EXPECT_EQ(rule.Judge(request, c.output_tokens, c.token), c.expected) << c.name;
  }
}

TEST(StopRule, BansEndsOnlyWhileThereIsAMinimum) {
  const StopRule rule({101, 100});
  Request request;
  request.stopping = {.max_tokens = 10, .stop_token_ids = {7, 100}};
  EXPECT_THAT(rule.Banned(request), IsEmpty());
  request.stopping.min_tokens = 1;
  EXPECT_THAT(rule.Banned(request), ElementsAre(7, 100, 101));
  request.stopping.ignore_eos = true;
  EXPECT_THAT(rule.Banned(request), ElementsAre(7, 100));
}

}  // namespace
}  // namespace longhaul::worker::leader
