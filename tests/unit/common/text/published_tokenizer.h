#pragma once

#include <map>
#include <memory>
#include <string>

#include "common/logging.h"
#include "common/text/tokenizer.h"
#include "tests/testing/paths.h"

namespace longhaul::text {

// A tokenizer of which Hugging Face's ids are stored.
struct PublishedTokenizer {
  bool shared;  // lies beside the checkout on some machines
  const char* directory;

  // Empty where it is absent.
  std::string Find() const {
    return shared ? testing::SharedPath(directory) : testing::SourcePath(directory);
  }
};

// The tokenizer in `directory`, loaded once a test program: the real vocabulary takes a while.
inline const Tokenizer& LoadedTokenizer(const std::string& directory) {
  static std::map<std::string, std::unique_ptr<const Tokenizer>> loaded;
  std::unique_ptr<const Tokenizer>& tokenizer = loaded[directory];
  if (tokenizer == nullptr) {
    auto read = Tokenizer::Load(directory);
    CHECK(read.ok()) << read.status();
    tokenizer = *std::move(read);
  }
  return *tokenizer;
}

}  // namespace longhaul::text
