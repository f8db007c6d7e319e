#include "common/text/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/text/utf8.h"

namespace longhaul::text {

absl::StatusOr<StopMatcher> StopMatcher::Create(std::vector<std::string> stops) {
  if (stops.size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(
        absl::StrCat(stops.size(), " stop strings were given, limit ", kMaxStopStrings));
  }
  for (size_t i = 0; i < stops.size(); ++i) {
    if (stops[i].empty()) {
      return absl::InvalidArgumentError(absl::StrCat("stop string ", i, " is empty"));
    }
    if (stops[i].size() > kMaxStopBytes) {
      return absl::InvalidArgumentError(absl::StrCat("stop string ", i, " has ", stops[i].size(),
                                                     " bytes, limit ", kMaxStopBytes));
    }
    if (const size_t offset = FindInvalidUtf8(stops[i]); offset != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("stop string ", i, " is not UTF-8 at byte ", offset));
    }
  }
  return StopMatcher(std::move(stops));
}

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& stop : stops) {
    Automaton automaton{.stop = std::move(stop), .fallback = {}};
    automaton.fallback.resize(automaton.stop.size());
    uint32_t border = 0;
    for (size_t i = 1; i < automaton.stop.size(); ++i) {
      while (border > 0 && automaton.stop[i] != automaton.stop[border]) {
        border = automaton.fallback[border - 1];
      }
      if (automaton.stop[i] == automaton.stop[border]) ++border;
      automaton.fallback[i] = border;
    }
    automata_.push_back(std::move(automaton));
  }
}

StopMatcher::Result StopMatcher::Push(std::string_view piece) {
  if (found_.has_value()) return {.text = "", .stop_index = found_};
  if (automata_.empty()) return {.text = std::string(piece), .stop_index = std::nullopt};
  size_t longest = 0;  // of the stop strings that are complete at this byte
  for (size_t offset = 0; offset < piece.size() && !found_.has_value(); ++offset) {
    const char byte = piece[offset];
    for (size_t i = 0; i < automata_.size(); ++i) {
      Automaton& a = automata_[i];
      while (a.matched > 0 && a.stop[a.matched] != byte) a.matched = a.fallback[a.matched - 1];
      if (a.stop[a.matched] == byte) ++a.matched;
      if (a.matched == a.stop.size() && a.matched > longest) {
        longest = a.matched;
        found_ = i;
      }
    }
    held_.push_back(byte);
  }
  size_t keep = longest;
  if (!found_.has_value()) {
    for (const Automaton& a : automata_) keep = std::max(keep, a.matched);
  }
  Result result{.text = held_.substr(0, held_.size() - keep), .stop_index = found_};
  held_.erase(0, held_.size() - keep);
  if (found_.has_value()) held_.clear();
  return result;
}

std::string StopMatcher::Flush() {
  for (Automaton& a : automata_) a.matched = 0;
  return std::exchange(held_, {});
}

}  // namespace longhaul::text
