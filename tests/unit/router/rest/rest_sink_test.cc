#include "router/rest/rest_sink.h"

#include <gtest/gtest.h>

#include <thread>

namespace longhaul::router::rest {
namespace {

TEST(RestSink, WakesOnceForAllThatWaits) {
  int wakes = 0;
  RestSink sink([&wakes] { wakes++; });
  sink.OnQueued({});
  sink.OnDelta({.text = "a", .tokens = {}});
  EXPECT_EQ(wakes, 1);
  EXPECT_EQ(sink.Take().size(), 2u);
  EXPECT_TRUE(sink.Take().empty());
  sink.OnError(absl::InternalError("x"));
  EXPECT_EQ(wakes, 2);
}

TEST(RestSink, LaterProgressReplacesProgressThatWaits) {
  RestSink sink([] {});
  sink.OnQueued({});
  for (int i = 1; i <= 1000; i++) sink.OnProgress({.processed_tokens = i});
  sink.OnDelta({.text = "a", .tokens = {}});
  const std::vector<RestEvent> events = sink.Take();
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(std::get<ProgressEvent>(events[1]).processed_tokens, 1000);
}

TEST(RestSink, NothingWakesAfterDetach) {
  auto touched = std::make_shared<int>(0);
  RestSink sink([touched] { ++*touched; });
  std::thread router([&sink] {
    for (int i = 0; i < 10000; i++) sink.OnDelta({.text = "a", .tokens = {}});
  });
  sink.Detach();
  EXPECT_EQ(touched.use_count(), 1);  // what the wake held is released
  const int wakes = *touched;
  router.join();
  EXPECT_EQ(*touched, wakes);
  EXPECT_TRUE(sink.Take().empty());
}

}  // namespace
}  // namespace longhaul::router::rest
