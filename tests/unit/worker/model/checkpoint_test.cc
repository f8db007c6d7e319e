#include "worker/model/checkpoint.h"

#include <filesystem>

#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace longhaul::worker::model {
namespace {

using ::longhaul::testing::SafetensorsBuilder;
using ::longhaul::testing::StatusIs;
using ::longhaul::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kIndex[] = "model.safetensors.index.json";

std::string OneTensor(const std::string& name) {
  SafetensorsBuilder builder;
  builder.Add(name, StoredType::kF32, {1}, "abcd");
  return builder.Build();
}

TEST(Checkpoint, ReadsASingleFile) {
  const TempDir folder;
  folder.Write("model.safetensors", OneTensor("a"));
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder.path()));
  EXPECT_EQ(checkpoint.entries().size(), 1u);
  EXPECT_TRUE(checkpoint.entries().contains("a"));
}

TEST(Checkpoint, ReadsTheShardsOfAnIndex) {
  const TempDir folder;
  folder.Write("one.safetensors", OneTensor("a"));
  folder.Write("two.safetensors", OneTensor("b"));
  folder.Write(kIndex, R"({"metadata":{"total_size":8},
      "weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder.path()));
  EXPECT_EQ(checkpoint.entries().size(), 2u);
  EXPECT_THAT(checkpoint.entries().find("b")->second.file->path(), HasSubstr("two.safetensors"));
}

TEST(Checkpoint, NamesTheFileThatIsMissing) {
  const TempDir folder;
  EXPECT_THAT(Checkpoint::Open(folder.path()).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("model.safetensors")));
  folder.Write(kIndex, R"({"weight_map":{"a":"gone.safetensors"}})");
  EXPECT_THAT(Checkpoint::Open(folder.path()).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("gone.safetensors")));
}

TEST(Checkpoint, RefusesAnIndexThatDisagreesWithItsFiles) {
  const struct {
    const char* name;
    const char* index;
    const char* error;
  } kCases[] = {
      {"not listed", R"({"weight_map":{"b":"one.safetensors"}})", "'a'"},
      {"listed, not there", R"({"weight_map":{"a":"one.safetensors","c":"one.safetensors"}})",
       "'c' is missing"},
      {"in another file", R"({"weight_map":{"a":"two.safetensors","b":"one.safetensors"}})", "'a'"},
      {"outside the folder", R"({"weight_map":{"a":"../one.safetensors"}})", "'a'"},
      {"dots", R"({"weight_map":{"a":".."}})", "'a'"},
      {"a number", R"({"weight_map":{"a":1}})", "'a'"},
      {"twice", R"({"weight_map":{"a":"one.safetensors","a":"two.safetensors"}})", "twice"},
      {"empty map", R"({"weight_map":{}})", "empty"},
      {"no map", R"({"metadata":{}})", "weight_map"},
      {"not json", "?", "JSON"},
      {"empty file", "", "JSON"},
  };
  for (const auto& test : kCases) {
    const TempDir folder;
    folder.Write("one.safetensors", OneTensor("a"));
    folder.Write("two.safetensors", OneTensor("b"));
    folder.Write(kIndex, test.index);
    EXPECT_THAT(Checkpoint::Open(folder.path()).status(),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr(folder.path()), HasSubstr(test.error))))
        << test.name;
  }
}

}  // namespace
}  // namespace longhaul::worker::model
