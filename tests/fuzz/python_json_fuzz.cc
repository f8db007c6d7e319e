// JSON rewritten as Python writes it: accepted exactly where another parser accepts it, means the
// same, and is its own rewriting.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "common/logging.h"
#include "common/text/python_json.h"
#include "common/text/utf8.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"

namespace longhaul::text {
namespace {

using Json = nlohmann::json;

void Check(const std::string& json) {
  int depth = 0;
  const Json::parser_callback_t watch = [&depth](int level, Json::parse_event_t, Json&) {
    depth = std::max(depth, level + 1);
    return true;
  };
  const Json meaning = Json::parse(json, watch, /*allow_exceptions=*/false);
  const auto written = ToPythonJson(json);
  if (!written.ok()) {
    CHECK(absl::IsInvalidArgument(written.status())) << written.status();
    CHECK(meaning.is_discarded() || depth >= kMaxJsonDepth) << written.status() << " in " << json;
    return;
  }
  CHECK(!meaning.is_discarded()) << "what was accepted is no JSON: " << json;
  CHECK(FindInvalidUtf8(*written) == std::string::npos) << *written;
  CHECK(Json::parse(*written, nullptr, false) == meaning) << json << " became " << *written;
  const auto again = ToPythonJson(*written);
  CHECK(again.ok() && *again == *written) << *written;
}

}  // namespace
}  // namespace longhaul::text

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longhaul::fuzz::FuzzInput input(data, size);
  longhaul::text::Check(std::string(input.Rest()));
  return 0;
}
