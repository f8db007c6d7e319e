#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace longhaul::text {

// Writes JSON as Python's json.dumps(json.loads(json), ensure_ascii=False) does, which is what chat
// templates put into prompts: ", " and ": " between items, keys in the order of first appearance
// (the last value of a repeated key), whole numbers in full, floats as repr (1e16 is 1e+16, 5e4
// 50000.0).
//
// Differs from Python in what it refuses: NaN, Infinity, floats beyond 1.8e308, lone surrogates
// ("\ud800") and more than kMaxJsonDepth levels.
// Errors: kInvalidArgument naming the byte. Linear in the size (times the depth).
inline constexpr int kMaxJsonDepth = 100;
absl::StatusOr<std::string> ToPythonJson(const std::string& json);

}  // namespace longhaul::text
