#pragma once

#include "common/text/tokenizer.h"
#include "tests/testing/paths.h"
#include "tests/unit/common/text/published_tokenizer.h"

namespace longhaul::text {

inline const Tokenizer& DemoTokenizer() {
  return LoadedTokenizer(testing::SourcePath("models/demo"));
}

}  // namespace longhaul::text
