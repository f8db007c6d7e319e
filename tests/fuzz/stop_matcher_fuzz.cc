// Stop strings in a text that comes in pieces: found where looking at every prefix of the text
// finds them, whatever the pieces.
#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/logging.h"
#include "common/text/stop_matcher.h"
#include "common/text/utf8.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"

namespace longhaul::text {
namespace {

struct Found {
  std::string text;
  std::optional<size_t> stop;
};

// The first prefix of the text that ends with a stop string, the longest of them.
Found Naive(const std::vector<std::string>& stops, std::string_view text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t i = 0; i < stops.size(); ++i) {
      if (!text.substr(0, end).ends_with(stops[i])) continue;
      if (!best.has_value() || stops[i].size() > stops[*best].size()) best = i;
    }
    if (best.has_value()) return {std::string(text.substr(0, end - stops[*best].size())), best};
  }
  return {std::string(text), std::nullopt};
}

bool IsUtf8(std::string_view text) { return FindInvalidUtf8(text) == std::string_view::npos; }

void Check(const std::vector<std::string>& stops, std::string_view text, uint32_t cuts) {
  auto matcher = StopMatcher::Create(stops);
  if (!matcher.ok()) {
    CHECK(absl::IsInvalidArgument(matcher.status())) << matcher.status();
    return;
  }
  const Found expected = Naive(stops, text);
  const bool is_utf8 = IsUtf8(text);
  Found found;
  for (size_t begin = 0; begin < text.size();) {
    cuts = cuts * 1103515245 + 12345;
    size_t size = 1 + (cuts >> 16) % 8;
    const auto continues = [&] {
      return begin + size < text.size() && (text[begin + size] & 0xC0) == 0x80;
    };
    while (is_utf8 && continues()) ++size;
    const std::string_view piece = text.substr(begin, size);
    begin += piece.size();
    const StopMatcher::Result result = matcher->Push(piece);
    CHECK(!is_utf8 || IsUtf8(result.text)) << result.text;
    CHECK(!found.stop.has_value() || (result.text.empty() && result.stop_index == found.stop));
    found.text += result.text;
    found.stop = result.stop_index;
    CHECK(found.stop.has_value() || begin - found.text.size() < StopMatcher::kMaxStopBytes);
  }
  found.text += matcher->Flush();
  CHECK(found.text == expected.text) << found.text << " instead of " << expected.text;
  CHECK(found.stop == expected.stop);
}

}  // namespace
}  // namespace longhaul::text

// A byte that seeds the pieces, stop strings one a line, an empty line, the text.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longhaul::fuzz::FuzzInput input(data, std::min<size_t>(size, 1024));
  const uint8_t cuts = input.Byte();
  std::vector<std::string> stops;
  while (!input.empty()) {
    const std::string_view stop = input.Until('\n');
    if (stop.empty()) break;
    stops.emplace_back(stop);
  }
  longhaul::text::Check(stops, input.Rest(), cuts);
  return 0;
}
