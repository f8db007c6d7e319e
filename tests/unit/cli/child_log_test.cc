#include "cli/child_log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::cli {
namespace {

constexpr char kInfo[] = "2026-01-31T12:00:00.123456Z I router dispatcher.cc:42 event=x\n";
constexpr char kWarning[] = "2026-01-31T12:00:00.123456Z W router dispatcher.cc:42 event=y\n";

class ChildLogTest : public ::testing::Test {
 protected:
  ChildLogTest() : fd_(open(path_.c_str(), O_RDWR | O_CREAT, 0600)) {}
  ~ChildLogTest() override { close(fd_); }
  std::string Content() const {
    std::ostringstream text;
    text << std::ifstream(path_).rdbuf();
    return text.str();
  }
  static void Write(const ChildLog& log, std::string_view text) {
    ASSERT_EQ(write(log.write_fd(), text.data(), text.size()), text.size());
  }
  const testing::TempDir folder_;
  const std::string path_ = folder_.path() + "/console";
  const int fd_;
};

TEST_F(ChildLogTest, PassesOnWhatMatters) {
  Console console(fd_);
  ASSERT_OK_AND_ASSIGN(auto log, ChildLog::Start(console));
  log->Release(ChildLog::Kept::kDrop);
  Write(*log, std::string(kInfo) + kWarning + "abort: core dumped\n" + kInfo + "no line break");
  log.reset();
  EXPECT_EQ(Content(), std::string(kWarning) + "abort: core dumped\nno line break\n");
}

TEST_F(ChildLogTest, HoldsBackTheNewestLines) {
  Console console(fd_);
  ASSERT_OK_AND_ASSIGN(auto log, ChildLog::Start(console));
  std::string lines;
  for (int i = 0; i < 60; i++) lines += "line " + std::to_string(i) + "\n";
  Write(*log, lines);
  usleep(100'000);  // the reader takes them while it holds back
  EXPECT_EQ(Content(), "");
  log->Release(ChildLog::Kept::kShow);
  log.reset();
  EXPECT_EQ(Content(), lines.substr(lines.find("line 10\n")));
}

TEST_F(ChildLogTest, AnEndlessLineIsCut) {
  Console console(fd_);
  ASSERT_OK_AND_ASSIGN(auto log, ChildLog::Start(console));
  log->Release(ChildLog::Kept::kDrop);
  Write(*log, std::string(20000, 'x'));
  log.reset();
  const std::string content = Content();
  EXPECT_EQ(std::count(content.begin(), content.end(), 'x'), 20000);
  EXPECT_GE(std::count(content.begin(), content.end(), '\n'), 2);
}

TEST(IsMinorLogLine, KnowsTheFormOfALog) {
  EXPECT_TRUE(IsMinorLogLine(kInfo));
  EXPECT_FALSE(IsMinorLogLine(kWarning));
  EXPECT_FALSE(IsMinorLogLine(""));
  EXPECT_FALSE(IsMinorLogLine("terminate called after throwing I do not know what"));
}

}  // namespace
}  // namespace longhaul::cli
