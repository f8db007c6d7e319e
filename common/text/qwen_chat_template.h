#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace longhaul::text {

// Compares a Jinja template with Qwen2.5's, character by character. Returns the default system
// message, the only part that differs between its models. Errors: kUnimplemented, naming the line
// where `jinja` departs from the known text.
absl::StatusOr<std::string> MatchQwenChatTemplate(std::string_view jinja);

}  // namespace longhaul::text
