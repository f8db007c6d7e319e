#include "worker/comm/local_address.h"

#include "tests/testing/status_matchers.h"

namespace longhaul::worker::comm {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

TEST(LocalInterface, HasTheAddressThatItWasFoundBy) {
  const auto name = LocalInterface("127.0.0.1", "");
  ASSERT_OK(name);
  const auto address = LocalAddress("no such host", *name);
  ASSERT_OK(address);
  EXPECT_EQ(*address, "127.0.0.1");
}

TEST(LocalInterface, IsTheOneThatWasNamedIfThereIsOne) {
  const auto loopback = LocalInterface("localhost", "");
  ASSERT_OK(loopback);
  const auto same = LocalInterface("no such host", *loopback);
  ASSERT_OK(same);
  EXPECT_EQ(*same, *loopback);
  EXPECT_THAT(LocalInterface("127.0.0.1", "none0").status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("`none0`")));
}

TEST(LocalInterface, RefusesAnAddressThatNoInterfaceHas) {
  // Every address of 127.0.0.0/8 can be bound to, but one interface has just the first.
  EXPECT_THAT(LocalInterface("127.1.2.3", "").status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("127.1.2.3")));
}

}  // namespace
}  // namespace longhaul::worker::comm
