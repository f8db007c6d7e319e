#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace longhaul::text {

// Finds stop strings in text that arrives in pieces.
//
// The match is the one that is complete first, byte by byte; of several that end at the same byte
// the longest. The result does not depend on how the text was cut. Text that may still become a
// stop string is held back: at most kMaxStopBytes - 1 bytes. Given well-formed UTF-8 pieces it
// emits well-formed pieces. Thread-compatible.
class StopMatcher {
 public:
  static constexpr size_t kMaxStopStrings = 16;
  static constexpr size_t kMaxStopBytes = 1024;

  // What one piece brought.
  struct Result {
    std::string text;                  // can be emitted now
    std::optional<size_t> stop_index;  // the stop string found; it and what follows is not emitted
  };

  // `stops` may be empty: then nothing is held back.
  // Errors: kInvalidArgument if there are too many, or one is empty, too long or not UTF-8.
  static absl::StatusOr<StopMatcher> Create(std::vector<std::string> stops);

  // After a match every later call returns no text and the same stop_index.
  Result Push(std::string_view piece);

  // The text ends: returns what is held back (nothing after a match).
  std::string Flush();

 private:
  // Knuth-Morris-Pratt automaton of one stop string.
  struct Automaton {
    std::string stop;
    std::vector<uint32_t> fallback;  // [stop.size()]: longest proper border of stop[0..i]
    size_t matched = 0;              // bytes of `stop` that the text ends with
  };

  explicit StopMatcher(std::vector<std::string> stops);

  std::vector<Automaton> automata_;
  std::string held_;
  std::optional<size_t> found_;
};

}  // namespace longhaul::text
