#pragma once

#include <string>
#include <vector>

namespace longhaul::text {

// A function that the model asked to be called.
struct ToolCall {
  std::string id;              // not part of the prompt
  std::string name;            // of the function
  std::string arguments_json;  // a JSON value, usually an object; empty means {}
};

// One turn of a conversation. Value type; strings are UTF-8.
struct ChatMessage {
  std::string role;                       // system, user, assistant or tool
  std::string content = {};               // text; empty where the client sent null
  std::vector<ToolCall> tool_calls = {};  // of an assistant
  std::string tool_call_id = {};  // of a tool: which call it answers; not part of the prompt
};

}  // namespace longhaul::text
