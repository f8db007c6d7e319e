#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace longhaul::cli {

// Puts the bytes of a text/event-stream together to events and hands out the data of each. Comments
// and fields other than data are dropped, as the HTML standard has it. Thread-compatible.
class SseReader {
 public:
  // An event's data, its lines joined by line breaks. Called from Add.
  explicit SseReader(std::function<void(std::string_view)> on_event)
      : on_event_(std::move(on_event)) {}

  // The next bytes, cut anywhere. kResourceExhausted if a line or an event is above 16 MiB.
  absl::Status Add(std::string_view bytes);

 private:
  void EndLine();

  const std::function<void(std::string_view)> on_event_;
  std::string line_;
  std::string data_;  // of the event so far, each line with a line break after it
};

}  // namespace longhaul::cli
