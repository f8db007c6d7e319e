// Normalized text is UTF-8 and its own normal form; ill-formed text is repaired alike in pieces and
// whole.
#include <string>
#include <string_view>

#include "common/logging.h"
#include "common/text/normalizer.h"
#include "common/text/utf8.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"

namespace longhaul::text {
namespace {

bool IsUtf8(std::string_view text) { return FindInvalidUtf8(text) == std::string_view::npos; }

void Check(std::string_view bytes) {
  // Ill-formed parts become U+FFFD, so that every input is a text; in pieces as in one go.
  std::string text;
  CHECK(AppendWellFormed(bytes, Continuation::kNone, text) == bytes.size());
  CHECK(IsUtf8(text) && (!IsUtf8(bytes) || text == bytes)) << text;
  std::string pieces;
  std::string held;
  for (const char byte : bytes) {
    held.push_back(byte);
    held.erase(0, AppendWellFormed(held, Continuation::kMayFollow, pieces));
    CHECK(held.size() <= 3);
  }
  AppendWellFormed(held, Continuation::kNone, pieces);
  CHECK(pieces == text) << pieces;

  const std::string normal = NormalizeNfc(text).value_or(text);
  CHECK(IsUtf8(normal)) << normal;
  CHECK(NormalizeNfc(normal).value_or(normal) == normal) << normal;
  // ASCII never composes with what stands before it, so texts can be parted there.
  const size_t ascii = text.find_first_of("aZ 0");
  if (ascii != std::string::npos) {
    const std::string front = text.substr(0, ascii);
    const std::string back = text.substr(ascii);
    CHECK(NormalizeNfc(front).value_or(front) + NormalizeNfc(back).value_or(back) == normal);
  }
}

}  // namespace
}  // namespace longhaul::text

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longhaul::fuzz::FuzzInput input(data, size);
  longhaul::text::Check(input.Rest());
  return 0;
}
