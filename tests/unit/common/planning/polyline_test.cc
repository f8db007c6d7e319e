#include "common/planning/polyline.h"

#include <gtest/gtest.h>

namespace longhaul::planning {
namespace {

TEST(Polyline, IsStraightBetweenPointsAndConstantOutside) {
  const Polyline line({{1, 10}, {3, 20}, {4, 0}});
  EXPECT_EQ(line.At(-5), 10);
  EXPECT_EQ(line.At(1), 10);
  EXPECT_DOUBLE_EQ(line.At(2), 15);
  EXPECT_DOUBLE_EQ(line.At(3), 20);
  EXPECT_DOUBLE_EQ(line.At(3.75), 5);
  EXPECT_EQ(line.At(4), 0);
  EXPECT_EQ(line.At(1e9), 0);
}

TEST(Polyline, OnePointIsAConstant) { EXPECT_EQ(Polyline({{7, 3}}).At(0), 3); }

TEST(PolylineDeathTest, PointsMustAscend) { EXPECT_DEATH(Polyline({{1, 1}, {1, 2}}), "x=1"); }

}  // namespace
}  // namespace longhaul::planning
