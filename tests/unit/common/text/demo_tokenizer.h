#pragma once

#include "common/logging.h"
#include "common/text/tokenizer.h"
#include "tests/testing/paths.h"

namespace longhaul::text {

// The demo model's tokenizer, loaded once a test program.
inline const Tokenizer& DemoTokenizer() {
  static const auto tokenizer = Tokenizer::Load(testing::SourcePath("models/demo"));
  CHECK(tokenizer.ok()) << tokenizer.status();
  return **tokenizer;
}

}  // namespace longhaul::text
