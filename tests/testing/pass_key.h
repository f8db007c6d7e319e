#pragma once

#include <cstdint>
#include <string>

namespace longhaul::testing {

// A five-digit key hidden in filler text, and the question for it: the twin of pass_key.py.
struct PassKeyPrompt {
  std::string text;    // the user's message
  std::string answer;  // what a model that retrieves the key says
};

// A prompt of exactly `tokens` tokens (at least 132) in models/demo, its chat template and default
// system message included, with the key about the share `depth` (0 to 1) into the filler.
PassKeyPrompt MakePassKeyPrompt(int64_t tokens, double depth, const std::string& key);

}  // namespace longhaul::testing
