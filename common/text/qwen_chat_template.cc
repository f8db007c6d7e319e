#include "common/text/qwen_chat_template.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/text/utf8.h"

namespace longhaul::text {
namespace {

// The template around its two mentions of the default system message.
// clang-format off
constexpr std::string_view kBeforeMessage = R"jinja({%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- ')jinja";
constexpr std::string_view kBetweenMessages = R"jinja(' }}
    {%- endif %}
    {{- "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\n)jinja";
constexpr std::string_view kAfterMessage = R"jinja(<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %})jinja";
// clang-format on

absl::Status Departs(std::string_view jinja, size_t offset) {
  const auto line =
      1 + std::count(jinja.begin(), jinja.begin() + static_cast<ptrdiff_t>(offset), '\n');
  return absl::UnimplementedError(
      absl::StrCat("the chat template is not that of Qwen2.5 from line ", line, " on (byte ",
                   offset, "); no other is implemented"));
}

// `jinja` has `expected` at `offset`; moves `offset` behind it.
absl::Status Consume(std::string_view jinja, std::string_view expected, size_t& offset) {
  const std::string_view rest = jinja.substr(offset);
  const auto [there, wanted] =
      std::mismatch(rest.begin(), rest.end(), expected.begin(), expected.end());
  offset += static_cast<size_t>(there - rest.begin());
  return wanted == expected.end() ? absl::OkStatus() : Departs(jinja, offset);
}

}  // namespace

absl::StatusOr<std::string> MatchQwenChatTemplate(std::string_view jinja) {
  size_t offset = 0;
  RETURN_IF_ERROR(Consume(jinja, kBeforeMessage, offset));
  // The message ends with its Jinja string; an escape in it would need an interpreter, and Jinja
  // makes a line end of a carriage return.
  const size_t end = std::min(jinja.find_first_of("'\\\r", offset), jinja.size());
  const std::string message(jinja.substr(offset, end - offset));
  if (const size_t bad = FindInvalidUtf8(message); bad != std::string::npos) {
    return Departs(jinja, offset + bad);
  }
  offset = end;
  RETURN_IF_ERROR(Consume(jinja, kBetweenMessages, offset));
  RETURN_IF_ERROR(Consume(jinja, message, offset));
  RETURN_IF_ERROR(Consume(jinja, kAfterMessage, offset));
  // Jinja drops one line end at the end.
  const std::string_view rest = jinja.substr(offset);
  if (!rest.empty() && rest != "\n") return Departs(jinja, offset);
  return message;
}

}  // namespace longhaul::text
