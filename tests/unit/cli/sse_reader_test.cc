#include "cli/sse_reader.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace longhaul::cli {
namespace {

using testing::StatusIs;

TEST(SseReader, HandsOutEventsHoweverTheBytesAreCut) {
  const std::string stream =
      ": heartbeat\n\ndata: one\n\ndata:two\r\ndata:  three\r\nid: 7\r\n\r\nevent: x\n\n"
      "data\n\ndata: [DONE]\n\ndata: not finished\n";
  const std::vector<std::string> expected = {"one", "two\n three", "[DONE]"};
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 50; round++) {
    std::vector<std::string> events;
    SseReader reader([&events](std::string_view data) { events.emplace_back(data); });
    for (size_t begin = 0; begin < stream.size();) {
      const size_t size = round == 0 ? stream.size() : 1 + random() % 9;
      ASSERT_OK(reader.Add(std::string_view(stream).substr(begin, size)));
      begin += size;
    }
    EXPECT_EQ(events, expected);
  }
}

TEST(SseReader, BoundsAnEvent) {
  SseReader reader([](std::string_view) {});
  const std::string line = "data: " + std::string(1 << 20, 'x') + "\n";
  absl::Status status;
  for (int i = 0; i < 20 && status.ok(); i++) status = reader.Add(line);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, ::testing::_));
}

}  // namespace
}  // namespace longhaul::cli
