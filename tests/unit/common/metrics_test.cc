#include "common/metrics.h"

#include <gtest/gtest.h>
#include <prometheus/counter.h>

#include "absl/time/clock.h"
#include "tests/testing/status_matchers.h"

namespace longhaul {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

TEST(MetricsServer, TakesAFreePortAndRefusesATakenOne) {
  auto registry = std::make_shared<prometheus::Registry>();
  ASSERT_OK_AND_ASSIGN(const auto server, MetricsServer::Start("127.0.0.1:0", registry));
  EXPECT_GT(server->port(), 0);
  const std::string taken = "127.0.0.1:" + std::to_string(server->port());
  EXPECT_THAT(MetricsServer::Start(taken, registry),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(taken)));
}

// civetweb alone takes up to 2 s.
TEST(MetricsServer, StopsAtOnce) {
  ASSERT_OK_AND_ASSIGN(
      auto server, MetricsServer::Start("127.0.0.1:0", std::make_shared<prometheus::Registry>()));
  const absl::Time begin = absl::Now();
  server.reset();
  EXPECT_LT(absl::Now() - begin, absl::Milliseconds(1500));
}

TEST(RenderMetrics, WritesPrometheusText) {
  prometheus::Registry registry;
  prometheus::BuildCounter()
      .Name("longhaul_test_total")
      .Help("h")
      .Register(registry)
      .Add({})
      .Increment(2);
  EXPECT_THAT(RenderMetrics(registry), HasSubstr("longhaul_test_total 2"));
}

TEST(FirstTokenBuckets, ReachAnHour) { EXPECT_EQ(FirstTokenBuckets().back(), 3600); }

}  // namespace
}  // namespace longhaul
