#include "common/text/chat_template.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/text/python_json.h"
#include "common/text/qwen_chat_template.h"
#include "common/text/text_file.h"

namespace longhaul::text {
namespace {

constexpr size_t kMaxFileBytes = size_t{16} << 20;

constexpr std::string_view kToolsIntro =
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
constexpr std::string_view kToolsOutro =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, "
    "\"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n";

// Collects the text and remembers who wrote which part of it.
class ChatWriter {
 public:
  void Markup(std::string_view text) {
    std::vector<TextRange>& markup = chat_.markup;
    const size_t begin = chat_.text.size();
    chat_.text.append(text);
    if (!markup.empty() && markup.back().end == begin) {
      markup.back().end = chat_.text.size();
    } else {
      markup.push_back({.begin = begin, .end = chat_.text.size()});
    }
  }
  void Content(std::string_view text) { chat_.text.append(text); }

  RenderedChat Take() && { return std::move(chat_); }

 private:
  RenderedChat chat_;
};

constexpr char kPartUrl[] = "longhaul/chat-part";

// kInvalidArgument about one part of the chat, which the message begins with.
absl::Status InvalidPart(const std::string& part, std::string_view what) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(part, std::string(what)));
  status.SetPayload(kPartUrl, absl::Cord(part));
  return status;
}

// A role longer than this is not repeated in an error.
constexpr size_t kMaxQuotedBytes = 64;

bool IsKnownRole(std::string_view role) {
  return role == "system" || role == "user" || role == "assistant" || role == "tool";
}

absl::Status CheckMessages(std::span<const ChatMessage> messages) {
  if (messages.empty()) return absl::InvalidArgumentError("a chat needs at least one message");
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (!IsKnownRole(message.role)) {
      const std::string quoted = message.role.size() <= kMaxQuotedBytes
                                     ? absl::StrCat("'", message.role, "'")
                                     : absl::StrCat("of ", message.role.size(), " bytes");
      return InvalidPart(absl::StrCat("messages[", i, "].role"),
                         absl::StrCat(" is ", quoted, ", known: system, user, assistant, tool"));
    }
    if (!message.tool_calls.empty() && message.role != "assistant") {
      return InvalidPart(absl::StrCat("messages[", i, "].tool_calls"),
                         absl::StrCat(" are tool calls of the role '", message.role,
                                      "', only assistant makes them"));
    }
  }
  return absl::OkStatus();
}

absl::Status WriteTools(std::span<const std::string> tools_json, ChatWriter& writer) {
  writer.Markup(kToolsIntro);
  for (size_t i = 0; i < tools_json.size(); ++i) {
    const absl::StatusOr<std::string> tool = ToPythonJson(tools_json[i]);
    const std::string part = absl::StrCat("tools[", i, "]");
    if (!tool.ok()) {
      return InvalidPart(part, absl::StrCat(": ", std::string(tool.status().message())));
    }
    if (!tool->starts_with('{')) return InvalidPart(part, " is no JSON object");
    writer.Markup("\n");
    writer.Content(*tool);
  }
  writer.Markup(kToolsOutro);
  return absl::OkStatus();
}

// An assistant's message with tool calls, the one at `index`.
absl::Status WriteToolCalls(const ChatMessage& message, size_t index, ChatWriter& writer) {
  writer.Markup("<|im_start|>assistant");
  if (!message.content.empty()) {
    writer.Markup("\n");
    writer.Content(message.content);
  }
  for (size_t i = 0; i < message.tool_calls.size(); ++i) {
    const ToolCall& call = message.tool_calls[i];
    const absl::StatusOr<std::string> arguments =
        ToPythonJson(call.arguments_json.empty() ? "{}" : call.arguments_json);
    if (!arguments.ok()) {
      return InvalidPart(absl::StrCat("messages[", index, "].tool_calls[", i, "]"),
                         absl::StrCat(": arguments: ", std::string(arguments.status().message())));
    }
    writer.Markup("\n<tool_call>\n{\"name\": \"");
    writer.Content(call.name);
    writer.Markup("\", \"arguments\": ");
    writer.Content(*arguments);
    writer.Markup("}\n</tool_call>");
  }
  writer.Markup("<|im_end|>\n");
  return absl::OkStatus();
}

// A tool's answer. Neighbouring answers share one turn of the user.
void WriteToolResponse(std::span<const ChatMessage> messages, size_t i, ChatWriter& writer) {
  if (i == 0 || messages[i - 1].role != "tool") writer.Markup("<|im_start|>user");
  writer.Markup("\n<tool_response>\n");
  writer.Content(messages[i].content);
  writer.Markup("\n</tool_response>");
  if (i + 1 == messages.size() || messages[i + 1].role != "tool") writer.Markup("<|im_end|>\n");
}

absl::StatusOr<std::string> ReadTemplate(const std::string& model_dir) {
  absl::StatusOr<std::string> jinja =
      ReadTextFile(absl::StrCat(model_dir, "/chat_template.jinja"), kMaxFileBytes);
  if (!absl::IsNotFound(jinja.status())) return jinja;

  const std::string path = absl::StrCat(model_dir, "/tokenizer_config.json");
  ASSIGN_OR_RETURN(const std::string json, ReadTextFile(path, kMaxFileBytes));
  const auto config = nlohmann::json::parse(json, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is no JSON object"));
  }
  const auto it = config.find("chat_template");
  if (it == config.end() || it->is_null()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has no chat_template"));
  }
  if (!it->is_string()) {
    return absl::UnimplementedError(
        absl::StrCat(path, ": chat_template is no string; lists of templates are not implemented"));
  }
  return it->get<std::string>();
}

}  // namespace

std::string ChatPartOf(const absl::Status& status) {
  const auto part = status.GetPayload(kPartUrl);
  return part ? std::string(*part) : "";
}

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::string& model_dir) {
  ASSIGN_OR_RETURN(const std::string jinja, ReadTemplate(model_dir));
  absl::StatusOr<std::string> message = MatchQwenChatTemplate(jinja);
  RETURN_IF_ERROR(message.status()) << model_dir;
  return ChatTemplate(*std::move(message));
}

ChatTemplate::ChatTemplate(std::string default_system_message)
    : default_system_message_(std::move(default_system_message)) {}

absl::StatusOr<std::string> ChatTemplate::Render(std::span<const ChatMessage> messages,
                                                 std::span<const std::string> tools_json,
                                                 bool add_generation_prompt) const {
  ASSIGN_OR_RETURN(RenderedChat chat, RenderMarked(messages, tools_json, add_generation_prompt));
  return std::move(chat.text);
}

absl::StatusOr<RenderedChat> ChatTemplate::RenderMarked(std::span<const ChatMessage> messages,
                                                        std::span<const std::string> tools_json,
                                                        bool add_generation_prompt) const {
  RETURN_IF_ERROR(CheckMessages(messages));
  ChatWriter writer;
  const bool has_system = messages[0].role == "system";
  writer.Markup("<|im_start|>system\n");
  if (has_system) {
    writer.Content(messages[0].content);
  } else {
    writer.Markup(default_system_message_);
  }
  if (tools_json.empty()) {
    writer.Markup("<|im_end|>\n");
  } else {
    RETURN_IF_ERROR(WriteTools(tools_json, writer));
  }
  for (size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role == "tool") {
      WriteToolResponse(messages, i, writer);
    } else if (!message.tool_calls.empty()) {
      RETURN_IF_ERROR(WriteToolCalls(message, i, writer));
    } else {
      writer.Markup(absl::StrCat("<|im_start|>", message.role, "\n"));
      writer.Content(message.content);
      writer.Markup("<|im_end|>\n");
    }
  }
  if (add_generation_prompt) writer.Markup("<|im_start|>assistant\n");
  return std::move(writer).Take();
}

absl::StatusOr<std::vector<TokenId>> ChatTemplate::EncodeChat(
    const Tokenizer& tokenizer, std::span<const ChatMessage> messages,
    std::span<const std::string> tools_json, bool add_generation_prompt) const {
  ASSIGN_OR_RETURN(const RenderedChat chat,
                   RenderMarked(messages, tools_json, add_generation_prompt));
  return tokenizer.EncodeMarked(chat.text, chat.markup);
}

}  // namespace longhaul::text
