// A model's chat template of foreign bytes: refused, or it is the known one around a default
// message, and renders that message.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/logging.h"
#include "common/text/chat_template.h"
#include "common/text/qwen_chat_template.h"
#include "common/text/utf8.h"
#include "tests/fuzz/embedded.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::text {
namespace {

// The demo's template with another default message.
std::string KnownTemplate(std::string_view message) {
  static const std::string demo =
      nlohmann::json::parse(fuzz::kTokenizerConfig)["chat_template"].get<std::string>();
  static const std::string demo_message = MatchQwenChatTemplate(demo).value();
  std::string jinja = demo;
  for (size_t at = 0; (at = jinja.find(demo_message, at)) != std::string::npos;) {
    jinja.replace(at, demo_message.size(), message);
    at += message.size();
  }
  return jinja;
}

void CheckMatch(std::string_view jinja) {
  const auto message = MatchQwenChatTemplate(jinja);
  if (!message.ok()) {
    CHECK(absl::IsUnimplemented(message.status())) << message.status();
    return;
  }
  // The message stands there twice; everything else is the template, with or without a line end.
  if (jinja.ends_with('\n')) jinja.remove_suffix(1);
  CHECK(jinja.size() >= 2 * message->size() && jinja.find(*message) != jinja.npos);
  static const size_t kTemplateBytes = jinja.size() - 2 * message->size();
  CHECK(jinja.size() - 2 * message->size() == kTemplateBytes) << jinja.size();
  CHECK(MatchQwenChatTemplate(jinja).ok());
  CHECK(MatchQwenChatTemplate(std::string(jinja) + "\n").ok());
  CHECK(!MatchQwenChatTemplate(std::string(jinja) + "\n\n").ok());
  CHECK(!MatchQwenChatTemplate(jinja.substr(0, jinja.size() - 1)).ok());
}

void CheckFolder(const std::string& folder) {
  const auto chat_template = ChatTemplate::Load(folder);
  if (!chat_template.ok()) {
    CHECK(absl::IsUnimplemented(chat_template.status()) ||
          absl::IsInvalidArgument(chat_template.status()))
        << chat_template.status();
    return;
  }
  const std::string message(chat_template->default_system_message());
  CHECK(FindInvalidUtf8(message) == std::string::npos)
      << "every chat of this model would be refused: its default message is no UTF-8";
  const std::vector<ChatMessage> user = {{.role = "user", .content = "hi"}};
  const auto text = chat_template->Render(user, {}, /*add_generation_prompt=*/true);
  CHECK(text.ok()) << text.status();
  CHECK(*text == "<|im_start|>system\n" + message +
                     "<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
      << *text;
}

}  // namespace
}  // namespace longhaul::text

// First byte M: the rest is the message of an otherwise known template; J: the rest is
// chat_template.jinja; S: it is the value of chat_template in
// tokenizer_config.json; otherwise it is that file.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using longhaul::testing::TempDir;
  longhaul::fuzz::FuzzInput input(data, size);
  const uint8_t mode = input.Byte();
  std::string text(input.Rest());
  if (mode == 'M') text = longhaul::text::KnownTemplate(text);
  if (mode == 'J' || mode == 'S' || mode == 'M') longhaul::text::CheckMatch(text);
  if (mode == 'J' || mode == 'M') {
    static const TempDir folder;
    folder.Write("chat_template.jinja", text);
    longhaul::text::CheckFolder(folder.path());
    return 0;
  }
  static const TempDir folder;
  const nlohmann::json config = {{"chat_template", text}};
  folder.Write(
      "tokenizer_config.json",
      mode == 'S' ? config.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) : text);
  longhaul::text::CheckFolder(folder.path());
  return 0;
}
