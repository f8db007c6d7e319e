#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/model_config.h"
#include "common/text/chat_template.h"
#include "common/text/tokenizer.h"

namespace longhaul::router {

// What the router knows of the model that its groups serve. Immutable after Load and thread-safe.
struct ServedModel {
  std::string name;  // in the APIs
  std::unique_ptr<const text::Tokenizer> tokenizer;
  std::optional<text::ChatTemplate> chat_template;  // absent: the model has none, Chat is refused
  GenerationDefaults defaults;
  int32_t vocab_size = 0;  // of the model, which may be padded beyond the tokenizer's
  int32_t max_model_len = 0;

  // Reads a Hugging Face directory. `name` empty: the directory's name. `max_model_len` 0: that of
  // the model.
  // Errors: those of ModelConfig, GenerationDefaults, Tokenizer and ChatTemplate; kInvalidArgument
  // if the tokenizer has ids that the model has not.
  static absl::StatusOr<ServedModel> Load(const std::string& model_dir, const std::string& name,
                                          int32_t max_model_len);
};

}  // namespace longhaul::router
