#include "common/planning/layer_split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/status_matchers.h"

namespace longhaul::planning {
namespace {

using longhaul::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(EvenLayerSplit, GivesTheFirstStagesTheLayersThatAreLeftOver) {
  EXPECT_THAT(EvenLayerSplit(28, 8).value(), ElementsAre(4, 4, 4, 4, 3, 3, 3, 3));
  EXPECT_THAT(EvenLayerSplit(28, 4).value(), ElementsAre(7, 7, 7, 7));
  EXPECT_THAT(EvenLayerSplit(3, 3).value(), ElementsAre(1, 1, 1));
  for (const int stages : {0, -1, 4}) {
    EXPECT_EQ(EvenLayerSplit(3, stages).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(ParseLayerSplit, TakesWhatIsWrittenOrSplitsEvenly) {
  EXPECT_THAT(ParseLayerSplit("3,1,2", 6, 3).value(), ElementsAre(3, 1, 2));
  EXPECT_THAT(ParseLayerSplit("", 7, 3).value(), ElementsAre(3, 2, 2));
  EXPECT_THAT(ParseLayerSplit("7", 7, 1).value(), ElementsAre(7));
}

TEST(ParseLayerSplit, NamesTheFlagAndTheLimit) {
  const struct {
    const char* text;
    int num_layers;
    int num_stages;
    const char* error;
  } kCases[] = {
      {"", 3, 4, "--pipeline-parallel-size"},
      {"3,2", 6, 2, "2 stages with 5 layers, must be 2 (--pipeline-parallel-size) with 6"},
      {"3,3", 6, 3, "2 stages with 6 layers, must be 3"},
      {"3,,3", 6, 3, "--layer-split has \"\""},
      {"6,0", 6, 2, "\"0\", must be numbers of layers from 1 to 6"},
      {"5,-1,2", 6, 3, "\"-1\""},
      {"9999999999,1", 6, 2, "\"9999999999\""},
      {"2,x", 6, 2, "\"x\""},
  };
  for (const auto& test : kCases) {
    EXPECT_THAT(ParseLayerSplit(test.text, test.num_layers, test.num_stages).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(test.error)))
        << test.text;
  }
}

}  // namespace
}  // namespace longhaul::planning
