#include "cli/batch_input.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::cli {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

std::string Line(const std::string& custom_id) {
  return R"({"custom_id":")" + custom_id + R"(","url":"/v1/completions","body":{"model":"m"}})";
}

bool NoneDone(const std::string&) { return false; }

class BatchInputTest : public ::testing::Test {
 protected:
  std::unique_ptr<BatchInput> Open(const std::string& content) {
    auto input = BatchInput::Open(folder_.Write("in", content), "demo");
    EXPECT_OK(input.status());
    return *std::move(input);
  }
  const testing::TempDir folder_;
};

TEST_F(BatchInputTest, PassesOverWhiteSpaceAndAByteOrderMark) {
  const auto input = Open("\xEF\xBB\xBF" + Line("a") + "\r\n\n  \t\r\n" + Line("b"));
  ASSERT_OK_AND_ASSIGN(const auto counts, input->Count(NoneDone));
  EXPECT_EQ(counts.requests, 2);
  std::vector<std::pair<int64_t, std::string>> items;
  while (true) {
    ASSERT_OK_AND_ASSIGN(const auto item, input->Next());
    if (!item.has_value()) break;
    EXPECT_OK(item->request.fault);
    items.emplace_back(item->line, *item->request.custom_id);
  }
  EXPECT_EQ(items, (std::vector<std::pair<int64_t, std::string>>{{1, "a"}, {4, "b"}}));
}

TEST_F(BatchInputTest, CountsWhatIsLeft) {
  ASSERT_OK_AND_ASSIGN(
      const auto counts,
      Open(Line("a") + "\nnonsense\n" + Line("b") + "\n")->Count([](const std::string& custom_id) {
        return custom_id == "a";
      }));
  EXPECT_EQ(counts.requests, 3);
  EXPECT_EQ(counts.left, 2);
}

TEST_F(BatchInputTest, NamesBothLinesOfOneCustomId) {
  EXPECT_THAT(Open(Line("a") + "\n" + Line("b") + "\n" + Line("a"))->Count(NoneDone),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("lines 1 and 3")));
}

TEST_F(BatchInputTest, RefusesAFileWithoutRequests) {
  EXPECT_THAT(Open("\n\n")->Count(NoneDone),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no request")));
}

TEST_F(BatchInputTest, RefusesWhatIsNoFile) {
  EXPECT_THAT(BatchInput::Open(folder_.path(), "m"),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_));
  EXPECT_THAT(BatchInput::Open(folder_.path() + "/none", "m"),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("/none")));
}

}  // namespace
}  // namespace longhaul::cli
