#include "router/served_model.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace longhaul::router {
namespace {

// The last component of the path; that of the current folder for ".".
std::string NameOfDirectory(const std::string& model_dir) {
  std::error_code error;
  std::filesystem::path path = std::filesystem::weakly_canonical(model_dir, error);
  if (error) path = model_dir;
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

}  // namespace

absl::StatusOr<ServedModel> ServedModel::Load(const std::string& model_dir, const std::string& name,
                                              int32_t max_model_len) {
  ServedModel model;
  model.name = name.empty() ? NameOfDirectory(model_dir) : name;
  ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::Load(model_dir));
  ASSIGN_OR_RETURN(model.defaults, GenerationDefaults::Load(model_dir));
  ASSIGN_OR_RETURN(model.tokenizer, text::Tokenizer::Load(model_dir));
  absl::StatusOr<text::ChatTemplate> chat_template = text::ChatTemplate::Load(model_dir);
  if (chat_template.ok()) {
    model.chat_template = *std::move(chat_template);
  } else if (!absl::IsNotFound(chat_template.status())) {
    return chat_template.status();
  }
  model.vocab_size = config.vocab_size;
  model.max_model_len = max_model_len > 0 ? max_model_len : config.max_position_embeddings;
  if (model.tokenizer->vocab_size() > config.vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(model_dir, ": tokenizer.json has ", model.tokenizer->vocab_size(),
                     " ids, config.json vocab_size ", config.vocab_size));
  }
  return model;
}

}  // namespace longhaul::router
