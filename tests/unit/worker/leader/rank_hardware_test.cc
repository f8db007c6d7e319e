#include "worker/leader/rank_hardware.h"

#include <gtest/gtest.h>

namespace longhaul::worker::leader {
namespace {

TEST(RankHardware, IsPrintableAndShortWhateverARankSays) {
  EXPECT_EQ(PrintableHardware("AMD EPYC 7B13, 16 threads"), "AMD EPYC 7B13, 16 threads");
  EXPECT_EQ(PrintableHardware(std::string("a\n\"b\0\x1B[31m\xC3\xA4\x7F", 13)), "a?\"b??[31m???");
  EXPECT_EQ(PrintableHardware(std::string(1000, 'x')), std::string(128, 'x'));
  EXPECT_EQ(PrintableHardware(""), "");
}

TEST(RankHardware, OfAGroupIsThatOfItsRanksInOrder) {
  EXPECT_EQ(GroupHardware({"H200"}), "H200");
  EXPECT_EQ(GroupHardware({"H200", "H200", "H200", "H200"}), "4 x H200");
  EXPECT_EQ(GroupHardware({"H200", "H100", "H100"}), "H200 + 2 x H100");
  EXPECT_EQ(GroupHardware({"H200", ""}), "") << "not known";
  EXPECT_EQ(GroupHardware({}), "");
}

}  // namespace
}  // namespace longhaul::worker::leader
