#include "worker/model/weights.h"

#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"
#include "worker/backend/cpu_backend.h"

namespace longhaul::worker::model {
namespace {

using ::longhaul::testing::StatusIs;
using ::longhaul::testing::TempDir;
using ::longhaul::testing::TinyModel;
using ::testing::HasSubstr;

std::vector<float> Host(TensorView tensor) { return {tensor.f32(), tensor.f32() + tensor.size()}; }

class WeightsTest : public ::testing::Test {
 protected:
  absl::StatusOr<Weights> Load(const TinyModel& model, const WeightRange& range) {
    const TempDir folder;
    model.Write(folder.path());
    const auto checkpoint = Checkpoint::Open(folder.path());
    RETURN_IF_ERROR(checkpoint);
    return LoadWeights(model.Config(), *checkpoint, range, *backend_);
  }
  const std::unique_ptr<backend::Backend> backend_ = backend::MakeCpuBackend(1);
  const WeightRange all_{.layer_begin = 0, .layer_end = 3};
};

TEST_F(WeightsTest, AreTheStoredValuesForEveryTypeAndSharding) {
  for (const StoredType type : {StoredType::kF32, StoredType::kBF16, StoredType::kF16}) {
    const TinyModel model{.num_files = type == StoredType::kF32 ? 1 : 4, .type = type};
    ASSERT_OK_AND_ASSIGN(const Weights weights, Load(model, all_));
    EXPECT_EQ(Host(weights.embedding), model.Values("model.embed_tokens.weight", 300 * 96));
    EXPECT_EQ(Host(weights.lm_head.weight), model.Values("lm_head.weight", 300 * 96));
    EXPECT_EQ(Host(weights.final_norm), model.Values("model.norm.weight", 96));
    ASSERT_EQ(weights.layers.size(), 3u);
    EXPECT_EQ(Host(weights.layers[2].down.weight),
              model.Values("model.layers.2.mlp.down_proj.weight", 96 * 160));
  }
}

TEST_F(WeightsTest, StackQueriesKeysAndValuesAndGateAndUp) {
  const TinyModel model;
  ASSERT_OK_AND_ASSIGN(const Weights weights, Load(model, all_));
  const auto stacked = [&](std::initializer_list<std::pair<const char*, int64_t>> parts) {
    std::vector<float> all;
    for (const auto& [suffix, size] : parts) {
      const auto values = model.Values(std::string("model.layers.1.") + suffix, size);
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  const Weights::Layer& layer = weights.layers[1];
  EXPECT_EQ(layer.qkv.weight.rows, (3 + 2) * 64);
  EXPECT_EQ(Host(layer.qkv.weight), stacked({{"self_attn.q_proj.weight", 192 * 96},
                                             {"self_attn.k_proj.weight", 64 * 96},
                                             {"self_attn.v_proj.weight", 64 * 96}}));
  EXPECT_EQ(Host(layer.qkv.bias), stacked({{"self_attn.q_proj.bias", 192},
                                           {"self_attn.k_proj.bias", 64},
                                           {"self_attn.v_proj.bias", 64}}));
  EXPECT_EQ(Host(layer.gate_up.weight),
            stacked({{"mlp.gate_proj.weight", 160 * 96}, {"mlp.up_proj.weight", 160 * 96}}));
}

TEST_F(WeightsTest, AStageHoldsItsLayersOnly) {
  const TinyModel model;
  ASSERT_OK_AND_ASSIGN(const Weights first, Load(model, {.layer_begin = 0, .layer_end = 1}));
  EXPECT_NE(first.embedding.data, nullptr);
  EXPECT_EQ(first.final_norm.data, nullptr);
  EXPECT_EQ(first.lm_head.weight.data, nullptr);
  EXPECT_EQ(first.layers.size(), 1u);
  ASSERT_OK_AND_ASSIGN(const Weights last, Load(model, {.layer_begin = 1, .layer_end = 3}));
  EXPECT_EQ(last.embedding.data, nullptr);
  EXPECT_EQ(Host(last.layers[0].out.weight),
            model.Values("model.layers.1.self_attn.o_proj.weight", 96 * 192));
  ASSERT_OK_AND_ASSIGN(const Weights whole, Load(model, all_));
  EXPECT_EQ(first.bytes + last.bytes, whole.bytes);
}

TEST_F(WeightsTest, ATiedHeadIsTheEmbedding) {
  const TinyModel model{.tied = true};
  ASSERT_OK_AND_ASSIGN(const Weights whole, Load(model, all_));
  EXPECT_EQ(whole.lm_head.weight.data, whole.embedding.data);
  ASSERT_OK_AND_ASSIGN(const Weights last, Load(model, {.layer_begin = 2, .layer_end = 3}));
  EXPECT_EQ(last.embedding.data, nullptr);
  EXPECT_EQ(Host(last.lm_head.weight), model.Values("model.embed_tokens.weight", 300 * 96));
}

TEST_F(WeightsTest, RefuseRangesOutsideTheModel) {
  EXPECT_THAT(Load({}, {.layer_begin = 0, .layer_end = 4}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("[0, 4)")));
  EXPECT_THAT(Load({}, {.layer_begin = 2, .layer_end = 2}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("[2, 2)")));
  EXPECT_THAT(Load({}, {.layer_end = 3, .tensor_parallel_size = 2}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1 KV heads")));
}

}  // namespace
}  // namespace longhaul::worker::model
