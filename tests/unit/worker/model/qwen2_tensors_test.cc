#include "worker/model/qwen2_tensors.h"

#include "tests/testing/paths.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace longhaul::worker::model {
namespace {

using ::longhaul::testing::SafetensorsBuilder;
using ::longhaul::testing::SharedPath;
using ::longhaul::testing::SourcePath;
using ::longhaul::testing::StatusIs;
using ::longhaul::testing::TempDir;
using ::longhaul::testing::TinyModel;
using ::testing::AllOf;
using ::testing::HasSubstr;

int64_t Parameters(const std::vector<ExpectedTensor>& table) {
  int64_t sum = 0;
  for (const ExpectedTensor& tensor : table) {
    int64_t size = 1;
    for (const int64_t dimension : tensor.shape) size *= dimension;
    sum += size;
  }
  return sum;
}

TEST(Qwen2Tensors, CountsTheParametersOfThePublishedModels) {
  if (SharedPath("models").empty()) GTEST_SKIP() << "shared models are not there";
  // The published sizes of the bf16 checkpoints, in bytes, are twice these.
  const struct {
    const char* folder;
    size_t tensors;
    int64_t parameters;
  } kModels[] = {{"models/qwen2.5-7b-instruct-1m", 339, 15231233024 / 2},
                 {"models/qwen2.5-14b-instruct-1m", 579, 29540067328 / 2}};
  for (const auto& model : kModels) {
    ASSERT_OK_AND_ASSIGN(const ModelConfig config, ModelConfig::Load(SharedPath(model.folder)));
    EXPECT_EQ(config.head_dim, 128) << model.folder;
    const auto table = Qwen2Tensors(config);
    EXPECT_EQ(table.size(), model.tensors) << model.folder;
    EXPECT_EQ(Parameters(table), model.parameters) << model.folder;
  }
}

TEST(Qwen2Tensors, AcceptsTheDemoModel) {
  const std::string folder = SourcePath("models/demo");
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ModelConfig::Load(folder));
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder));
  EXPECT_OK(CheckQwen2Tensors(config, checkpoint));
  EXPECT_EQ(Parameters(Qwen2Tensors(config)), 4462848);
}

// The tiny model's file with one change.
class ChangedModel {
 public:
  // `name` gets this shape and type; an empty shape leaves it out.
  absl::Status Check(const std::string& name, std::vector<int64_t> shape,
                     StoredType type = StoredType::kF32) {
    const TinyModel model;
    SafetensorsBuilder builder;
    bool known = false;
    for (const ExpectedTensor& tensor : Qwen2Tensors(model.Config())) {
      const bool changed = tensor.name == name;
      known |= changed;
      if (!changed) Add(builder, tensor.name, tensor.shape, StoredType::kF32);
      if (changed && !shape.empty()) Add(builder, name, shape, type);
    }
    if (!known) Add(builder, name, shape, type);
    const TempDir folder;
    folder.Write("model.safetensors", builder.Build());
    const auto checkpoint = Checkpoint::Open(folder.path());
    RETURN_IF_ERROR(checkpoint);
    return CheckQwen2Tensors(model.Config(), *checkpoint);
  }

 private:
  static void Add(SafetensorsBuilder& builder, const std::string& name,
                  const std::vector<int64_t>& shape, StoredType type) {
    int64_t bytes = StoredTypeBytes(type);
    for (const int64_t dimension : shape) bytes *= dimension;
    builder.Add(name, type, shape, std::string(static_cast<size_t>(bytes), '\0'));
  }
};

TEST(Qwen2Tensors, NamesTheTensorThatIsWrong) {
  const struct {
    const char* name;
    const char* tensor;
    std::vector<int64_t> shape;
    StoredType type;
    const char* error;
  } kCases[] = {
      {"missing", "model.layers.1.mlp.up_proj.weight", {}, StoredType::kF32, "is missing"},
      {"head missing", "lm_head.weight", {}, StoredType::kF32, "is missing"},
      {"transposed",
       "model.layers.2.mlp.down_proj.weight",
       {160, 96},
       StoredType::kF32,
       "has shape [160, 96], config.json asks for [96, 160]"},
      {"another rank", "model.norm.weight", {1, 96}, StoredType::kF32, "asks for [96]"},
      {"integers", "model.norm.weight", {96}, StoredType::kI32, "is I32"},
      {"one layer too many",
       "model.layers.3.mlp.up_proj.weight",
       {160, 96},
       StoredType::kF32,
       "none of the model"},
      {"a bias of o_proj",
       "model.layers.0.self_attn.o_proj.bias",
       {96},
       StoredType::kF32,
       "none of the model"},
  };
  for (const auto& test : kCases) {
    EXPECT_THAT(ChangedModel().Check(test.tensor, test.shape, test.type),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr("model.safetensors"), HasSubstr(test.tensor),
                               HasSubstr(test.error))))
        << test.name;
  }
  EXPECT_OK(ChangedModel().Check("model.norm.weight", {96}, StoredType::kF16));
}

TEST(Qwen2Tensors, ATiedModelHasNoHead) {
  TinyModel tied{.tied = true};
  for (const ExpectedTensor& tensor : Qwen2Tensors(tied.Config())) {
    EXPECT_NE(tensor.name, "lm_head.weight");
  }
}

}  // namespace
}  // namespace longhaul::worker::model
