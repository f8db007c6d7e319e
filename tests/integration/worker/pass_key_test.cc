// Retrieval: the demo model, trained on 4,096 tokens, finds a pass key far beyond them with Dual
// Chunk Attention, in both temperature modes, and mostly does not with plain RoPE.
//
// Which prompts are run is the name's matter: Retrieves16384.* in the normal run; Slow*.* under the
// label slow.
#include "tests/testing/pass_key.h"

#include <iostream>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "tests/testing/golden.h"
#include "tests/testing/model_runner.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::testing {
namespace {

constexpr worker::model::AttentionOptions kPosition{.temperature = AttentionTemperature::kPosition};
constexpr worker::model::AttentionOptions kRequest{.temperature = AttentionTemperature::kRequest};
constexpr worker::model::AttentionOptions kPlainRope{.dual_chunk = false};

class Retrieval : public ::testing::Test {
 protected:
  // How many of `prompts` prompts of this length, keys at depths spread from 0 to 1, are answered
  // right to the letter.
  int NumRight(const worker::model::AttentionOptions& attention, int64_t tokens, int prompts) {
    const std::string model_dir = SourcePath("models/demo");
    auto tokenizer = text::Tokenizer::Load(model_dir);
    auto chat = text::ChatTemplate::Load(model_dir);
    auto runner = ModelRunner::Create(
        {.model_dir = model_dir, .attention = attention, .max_tokens = tokens + kKvBlockTokens});
    CHECK(tokenizer.ok() && chat.ok() && runner.ok());
    const TokenId end = *(*tokenizer)->TokenIdOf("<|im_end|>");
    int right = 0;
    for (int i = 0; i < prompts; ++i) {
      const double depth = (i + 0.5) / prompts;
      const std::string key = absl::StrFormat("%05d", SplitMix64(tokens, i) % 100'000);
      const PassKeyPrompt prompt = MakePassKeyPrompt(tokens, depth, key);
      const std::vector<text::ChatMessage> messages = {{.role = "user", .content = prompt.text}};
      const auto ids = chat->EncodeChat(**tokenizer, messages, {}, /*add_generation_prompt=*/true);
      CHECK(ids.ok()) << ids.status();
      EXPECT_EQ(static_cast<int64_t>(ids->size()), tokens);
      const absl::Time begin = absl::Now();
      auto output = (*runner)->Generate(*ids, 12, {.chunks = {4096}});
      CHECK(output.ok()) << output.status();
      std::vector<TokenId>& answer = output->tokens;
      answer.erase(std::find(answer.begin(), answer.end(), end), answer.end());
      const std::string text = (*tokenizer)->Decode(answer, /*skip_special=*/false);
      right += text == prompt.answer ? 1 : 0;
      std::cout << tokens << " tokens, depth " << depth << ", "
                << absl::ToInt64Milliseconds(absl::Now() - begin) << " ms: " << text << " ("
                << prompt.answer << ")\n";
    }
    return right;
  }
};

using Retrieves16384 = Retrieval;
TEST_F(Retrieves16384, WithTheTemperatureOfThePosition) {
  EXPECT_EQ(NumRight(kPosition, 16384, 3), 3);
}
TEST_F(Retrieves16384, WithTheTemperatureOfTheRequest) {
  EXPECT_EQ(NumRight(kRequest, 16384, 3), 3);
}

using SlowRetrieval = Retrieval;
TEST_F(SlowRetrieval, TwentyPromptsWithTheTemperatureOfThePosition) {
  EXPECT_EQ(NumRight(kPosition, 16384, 20), 20);
}
TEST_F(SlowRetrieval, TwentyPromptsWithTheTemperatureOfTheRequest) {
  EXPECT_EQ(NumRight(kRequest, 16384, 20), 20);
}
TEST_F(SlowRetrieval, PlainRopeIsRightInAtMostTenOfTwenty) {
  EXPECT_LE(NumRight(kPlainRope, 16384, 20), 10);
}
TEST_F(SlowRetrieval, At65536WithTheTemperatureOfThePosition) {
  EXPECT_EQ(NumRight(kPosition, 65536, 2), 2);
}
TEST_F(SlowRetrieval, At65536WithTheTemperatureOfTheRequest) {
  EXPECT_EQ(NumRight(kRequest, 65536, 2), 2);
}

}  // namespace
}  // namespace longhaul::testing
