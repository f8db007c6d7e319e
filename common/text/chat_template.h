#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/text/added_tokens.h"
#include "common/text/chat_message.h"
#include "common/text/tokenizer.h"
#include "common/types.h"

namespace longhaul::text {

// A conversation as the text that the model reads.
struct RenderedChat {
  std::string text;
  std::vector<TextRange> markup;  // written by the template, not by a participant; sorted, disjoint
};

// The part of a chat that an error of ChatTemplate is about: "tools[2]", "messages[0].role"; empty
// for an error about all of it.
std::string ChatPartOf(const absl::Status& status);

// Qwen2.5's chat template (ChatML with tools in the manner of Hermes), with the default system
// message of the model at hand.
//
// Not a Jinja interpreter: the template of the model's directory must be the known one, up to that
// message, and any other is refused. Immutable after Load and thread-safe.
class ChatTemplate {
 public:
  // Reads `model_dir`/chat_template.jinja or, where there is none, chat_template of
  // tokenizer_config.json.
  // Errors: kNotFound if neither file exists; kInvalidArgument if the configuration is malformed or
  // has no template; kUnimplemented for another template, naming the line where it departs.
  static absl::StatusOr<ChatTemplate> Load(const std::string& model_dir);

  // What Hugging Face's apply_chat_template gives. `tools_json` are the tools' JSON objects.
  // Stricter than it, where it would drop what a client said: kInvalidArgument for no message at
  // all, a role that the template does not know, tool calls outside of an assistant's message,
  // malformed JSON, or a tool that is no object (ChatPartOf names the message or tool).
  absl::StatusOr<std::string> Render(std::span<const ChatMessage> messages,
                                     std::span<const std::string> tools_json,
                                     bool add_generation_prompt) const;

  // The same, and which parts of it are the template's own.
  absl::StatusOr<RenderedChat> RenderMarked(std::span<const ChatMessage> messages,
                                            std::span<const std::string> tools_json,
                                            bool add_generation_prompt) const;

  // The ids of the rendered text, in which only the template's own parts can hold special tokens:
  // "<|im_end|>" in a message is text and ends nothing. Without such text, Hugging Face's ids.
  // Errors: those of Render and of Tokenizer::Encode.
  absl::StatusOr<std::vector<TokenId>> EncodeChat(const Tokenizer& tokenizer,
                                                  std::span<const ChatMessage> messages,
                                                  std::span<const std::string> tools_json,
                                                  bool add_generation_prompt) const;

  std::string_view default_system_message() const { return default_system_message_; }

 private:
  explicit ChatTemplate(std::string default_system_message);

  std::string default_system_message_;
};

}  // namespace longhaul::text
