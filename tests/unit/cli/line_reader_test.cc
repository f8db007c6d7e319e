#include "cli/line_reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <random>
#include <vector>

#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::cli {
namespace {

using testing::StatusIs;

std::vector<LineReader::Line> Lines(const std::string& content, size_t limit = 1 << 20) {
  const testing::TempDir folder;
  const int fd = open(folder.Write("f", content).c_str(), O_RDONLY);
  LineReader reader(fd, "f", limit);
  std::vector<LineReader::Line> lines;
  while (true) {
    const auto line = reader.Next();
    EXPECT_OK(line.status());
    if (!line.ok() || !line->has_value()) break;
    lines.push_back(**line);
  }
  close(fd);
  return lines;
}

TEST(LineReader, AnEmptyFileHasNoLine) { EXPECT_TRUE(Lines("").empty()); }

TEST(LineReader, SaysWhetherTheLastLineHasItsEnd) {
  EXPECT_TRUE(Lines("a\n").at(0).terminated);
  EXPECT_EQ(Lines("a\n").size(), 1);
  EXPECT_FALSE(Lines("a\nb").at(1).terminated);
  EXPECT_TRUE(Lines("\n").at(0).terminated);
}

TEST(LineReader, CutsALineAboveTheLimitAndGoesOnAfterIt) {
  const auto lines = Lines("12345\n" + std::string(1 << 20, 'x') + "\n123456\n", 5);
  ASSERT_EQ(lines.size(), 3);
  EXPECT_FALSE(lines[0].too_long);
  EXPECT_EQ(lines[0].text, "12345");
  EXPECT_TRUE(lines[1].too_long);
  EXPECT_EQ(lines[1].text, "xxxxx");
  EXPECT_TRUE(lines[2].too_long);
  EXPECT_EQ(lines[2].number, 3);
}

TEST(LineReader, PutsRandomFilesBackTogether) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 10; round++) {
    std::string content;
    const int num_lines = static_cast<int>(random() % 20);
    for (int i = 0; i < num_lines; i++) {
      // Around the read-ahead's size, too.
      content += std::string(random() % 3 == 0 ? (256 << 10) - 3 + random() % 6 : random() % 50,
                             static_cast<char>('a' + i));
      content += '\n';
    }
    if (random() % 2 == 0) content += "tail";
    std::string joined;
    for (const LineReader::Line& line : Lines(content)) {
      EXPECT_EQ(line.begin, static_cast<int64_t>(joined.size()));
      joined += line.text + (line.terminated ? "\n" : "");
    }
    EXPECT_TRUE(joined == content);
  }
}

TEST(LineReader, SaysThatAFileCannotBeRead) {
  LineReader reader(-1, "the file", 10);
  EXPECT_THAT(reader.Next(),
              StatusIs(absl::StatusCode::kUnavailable, ::testing::HasSubstr("the file")));
}

}  // namespace
}  // namespace longhaul::cli
