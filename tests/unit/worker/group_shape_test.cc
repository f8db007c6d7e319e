#include "worker/group_shape.h"

#include "tests/testing/status_matchers.h"

namespace longhaul::worker {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

const ModelConfig kModel = {.num_layers = 7, .intermediate_size = 12, .num_kv_heads = 4};

TEST(GroupShape, NumbersRanksByStageThenShard) {
  ASSERT_OK_AND_ASSIGN(
      const GroupShape shape,
      GroupShape::Make({.tensor_parallel_size = 2, .pipeline_parallel_size = 3}, kModel));
  EXPECT_EQ(shape.num_ranks(), 6);
  const struct {
    int32_t stage, shard, begin, end;
  } kPlaces[] = {{0, 0, 0, 3}, {0, 1, 0, 3}, {1, 0, 3, 5},
                 {1, 1, 3, 5}, {2, 0, 5, 7}, {2, 1, 5, 7}};
  for (int32_t rank = 0; rank < 6; ++rank) {
    EXPECT_EQ(shape.StageOf(rank), kPlaces[rank].stage) << rank;
    EXPECT_EQ(shape.ShardOf(rank), kPlaces[rank].shard) << rank;
    EXPECT_EQ(shape.LayersOf(rank).begin, kPlaces[rank].begin) << rank;
    EXPECT_EQ(shape.LayersOf(rank).end, kPlaces[rank].end) << rank;
  }
}

TEST(GroupShape, TakesAWrittenSplit) {
  ASSERT_OK_AND_ASSIGN(
      const GroupShape shape,
      GroupShape::Make({.pipeline_parallel_size = 2, .layer_split = "2,5"}, kModel));
  EXPECT_EQ(shape.LayersOf(0).end, 2);
  EXPECT_EQ(shape.LayersOf(1).begin, 2);
  EXPECT_EQ(shape.LayersOf(1).end, 7);
}

TEST(GroupShape, OneRankHasAllLayers) {
  const GroupShape shape(5);
  EXPECT_EQ(shape.num_ranks(), 1);
  EXPECT_EQ(shape.LayersOf(0).end, 5);
}

TEST(GroupShape, NamesTheSettingAndTheLimit) {
  const struct {
    GroupShape::Settings settings;
    const char* error;
  } kCases[] = {
      {{.tensor_parallel_size = 3},
       "--tensor-parallel-size is 3, must divide the model's 4 KV heads (num_key_value_heads)"},
      {{.tensor_parallel_size = 8}, "--tensor-parallel-size is 8, must divide"},
      {{.tensor_parallel_size = 0}, "must be 1 to 256 ranks"},
      {{.tensor_parallel_size = 4, .pipeline_parallel_size = 65}, "must be 1 to 256 ranks"},
      {{.pipeline_parallel_size = 0}, "--pipeline-parallel-size"},
      {{.pipeline_parallel_size = 8}, "--pipeline-parallel-size: cannot split 7 layers into 8"},
      {{.pipeline_parallel_size = 2, .layer_split = "3,3"}, "with 6 layers, must be 2"},
  };
  for (const auto& test : kCases) {
    EXPECT_THAT(GroupShape::Make(test.settings, kModel).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(test.error)));
  }
  ModelConfig odd = kModel;
  odd.intermediate_size = 13;
  EXPECT_THAT(GroupShape::Make({.tensor_parallel_size = 4}, odd).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("must divide the model's 13 columns of the MLP")));
}

}  // namespace
}  // namespace longhaul::worker
