#include "worker/model/checkpoint.h"

#include <simdjson.h>

#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace longhaul::worker::model {
namespace {

namespace json = simdjson::ondemand;

constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr char kSingleName[] = "model.safetensors";
constexpr uintmax_t kMaxIndexBytes = 100'000'000;

using WeightMap = std::map<std::string, std::string>;  // tensor -> file name

absl::Status Bad(const std::string& what) { return absl::InvalidArgumentError(what); }

absl::Status NotJson(simdjson::error_code error) {
  return Bad(absl::StrCat("not the JSON it should be: ", simdjson::error_message(error)));
}

bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name.find('/') == name.npos && name.find('\0') == name.npos &&
         name != "." && name != "..";
}

absl::StatusOr<WeightMap> ReadWeightMap(json::value value) {
  json::object object;
  if (value.get_object().get(object)) return Bad("weight_map is not an object");
  WeightMap map;
  for (auto item : object) {
    json::field field;
    if (const auto error = std::move(item).get(field)) return NotJson(error);
    std::string_view key;
    if (const auto error = field.unescaped_key().get(key)) return NotJson(error);
    const std::string tensor(key);
    std::string_view file;
    if (field.value().get_string().get(file) || !IsPlainFileName(file)) {
      return Bad(absl::StrCat("tensor ", QuotedName(tensor), " is not mapped to a file name"));
    }
    if (!map.emplace(tensor, file).second) {
      return Bad(absl::StrCat("tensor ", QuotedName(tensor), " is listed twice"));
    }
  }
  if (map.empty()) return Bad("weight_map is empty");
  return map;
}

absl::StatusOr<WeightMap> ReadIndex(const std::string& path) {
  std::error_code failed;
  const uintmax_t bytes = std::filesystem::file_size(path, failed);
  if (failed) return absl::NotFoundError(failed.message());
  if (bytes > kMaxIndexBytes) {
    return Bad(absl::StrCat("index of ", bytes, " bytes, limit ", kMaxIndexBytes));
  }
  simdjson::padded_string text;
  if (const auto error = simdjson::padded_string::load(path).get(text)) return NotJson(error);
  json::parser parser;
  json::document document;
  if (const auto error = parser.iterate(text).get(document)) return NotJson(error);
  json::object object;
  if (const auto error = document.get_object().get(object)) return NotJson(error);
  for (auto item : object) {
    json::field field;
    if (const auto error = std::move(item).get(field)) return NotJson(error);
    std::string_view key;
    if (const auto error = field.unescaped_key().get(key)) return NotJson(error);
    if (key == "weight_map") return ReadWeightMap(field.value());
  }
  return Bad("weight_map is missing");
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& model_dir) {
  Checkpoint checkpoint;
  const std::filesystem::path folder(model_dir);
  WeightMap map;  // empty without an index
  std::set<std::string> names;
  if (std::filesystem::exists(folder / kIndexName)) {
    checkpoint.path_ = (folder / kIndexName).string();
    auto read = ReadIndex(checkpoint.path_);
    RETURN_IF_ERROR(read) << checkpoint.path_;
    map = *std::move(read);
    for (const auto& [tensor, file] : map) names.insert(file);
  } else {
    checkpoint.path_ = (folder / kSingleName).string();
    names.insert(kSingleName);
  }
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open((folder / name).string()));
    for (const StoredTensor& tensor : file->tensors()) {
      const auto listed = map.find(tensor.name);
      if (!map.empty() && (listed == map.end() || listed->second != name)) {
        return Bad(absl::StrCat(file->path(), ": tensor ", QuotedName(tensor.name),
                                " is not where ", kIndexName, " says"));
      }
      checkpoint.entries_[tensor.name] = {file.get(), &tensor};
    }
    checkpoint.files_.push_back(std::move(file));
  }
  for (const auto& [tensor, file] : map) {
    if (!checkpoint.entries_.contains(tensor)) {
      return Bad(absl::StrCat((folder / file).string(), ": tensor ", QuotedName(tensor),
                              " is missing, though ", kIndexName, " lists it"));
    }
  }
  return checkpoint;
}

}  // namespace longhaul::worker::model
