// Compares with what Hugging Face's libraries gave (tests/data/make_tokenizer_cases.py).
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"
#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/unit/common/text/published_tokenizer.h"

namespace longhaul::text {
namespace {

using Json = nlohmann::json;

struct Model {
  const char* name;
  const char* cases;
  PublishedTokenizer tokenizer;
};

std::ostream& operator<<(std::ostream& out, const Model& model) { return out << model.name; }

class HuggingFace : public ::testing::TestWithParam<Model> {
 protected:
  void SetUp() override {
    const Model& model = GetParam();
    const std::string directory = model.tokenizer.Find();
    if (directory.empty()) {
      GTEST_SKIP() << "skipped: LONGHAUL_SHARED has no " << model.tokenizer.directory;
    }
    tokenizer_ = &LoadedTokenizer(directory);
    directory_ = directory;
    std::ifstream file(testing::SourcePath(model.cases));
    cases_ = Json::parse(file);
  }

  std::string directory_;
  const Tokenizer* tokenizer_ = nullptr;
  Json cases_;
};

TEST_P(HuggingFace, GivesTheSameIds) {
  ASSERT_GE(cases_["texts"].size(), 200u);
  for (const Json& c : cases_["texts"]) {
    const std::string text = c["text"];
    ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> parsed,
                         tokenizer_->Encode(text, SpecialTokens::kParse));
    EXPECT_EQ(parsed, c["parse"].get<std::vector<TokenId>>()) << c["text"];
    ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> as_text,
                         tokenizer_->Encode(text, SpecialTokens::kAsText));
    EXPECT_EQ(as_text, c["as_text"].get<std::vector<TokenId>>()) << c["text"];
  }
}

TEST_P(HuggingFace, GivesTheSameTextOfIds) {
  ASSERT_GE(cases_["decodings"].size(), 400u);
  for (const Json& c : cases_["decodings"]) {
    const std::vector<TokenId> ids = c["ids"];
    EXPECT_EQ(tokenizer_->Decode(ids, /*skip_special=*/false), c["text"]) << c["ids"];
    EXPECT_EQ(tokenizer_->Decode(ids, /*skip_special=*/true), c["text_skipping_special"])
        << c["ids"];
  }
}

TEST_P(HuggingFace, GivesTheSameChats) {
  ASSERT_OK_AND_ASSIGN(const ChatTemplate chat_template, ChatTemplate::Load(directory_));
  ASSERT_GE(cases_["chats"].size(), 140u);
  for (const Json& c : cases_["chats"]) {
    std::vector<ChatMessage> messages;
    for (const Json& m : c["messages"]) {
      ChatMessage message{.role = m["role"], .content = m["content"]};
      for (const Json& call : m["tool_calls"]) {
        message.tool_calls.push_back(
            {.id = "", .name = call["name"], .arguments_json = call["arguments_json"]});
      }
      messages.push_back(std::move(message));
    }
    const std::vector<std::string> tools = c["tools_json"];
    const bool add_generation_prompt = c["add_generation_prompt"];
    ASSERT_OK_AND_ASSIGN(const std::string text,
                         chat_template.Render(messages, tools, add_generation_prompt));
    EXPECT_EQ(text, c["text"]);
    ASSERT_OK_AND_ASSIGN(
        const std::vector<TokenId> ids,
        chat_template.EncodeChat(*tokenizer_, messages, tools, add_generation_prompt));
    EXPECT_EQ(ids, c["ids"].get<std::vector<TokenId>>()) << c["text"];
  }
}

INSTANTIATE_TEST_SUITE_P(
    , HuggingFace,
    ::testing::Values(
        Model{"Demo", "tests/data/tokenizer_demo.json", {false, "models/demo"}},
        Model{"Qwen", "tests/data/tokenizer_qwen.json", {true, "models/qwen2.5-tokenizer"}}),
    [](const ::testing::TestParamInfo<Model>& model) { return model.param.name; });

}  // namespace
}  // namespace longhaul::text
