#include "cli/prompt_file.h"

#include <gtest/gtest.h>

#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::cli {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

TEST(ReadPromptFile, GivesTheBytesAsTheyAre) {
  const testing::TempDir folder;
  const std::string text = std::string("a\0b\r\n", 5) + std::string(1 << 20, 'x') + "\n";
  ASSERT_OK_AND_ASSIGN(const std::string read, ReadPromptFile(folder.Write("p", text)));
  EXPECT_TRUE(read == text);
}

TEST(ReadPromptFile, SaysWhatIsWrong) {
  const testing::TempDir folder;
  EXPECT_THAT(ReadPromptFile(folder.path() + "/none"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/none")));
  EXPECT_THAT(ReadPromptFile(folder.path()), StatusIs(absl::StatusCode::kNotFound, ::testing::_));
  EXPECT_THAT(ReadPromptFile(folder.Write("p", "")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("empty")));
  EXPECT_THAT(ReadPromptFile(folder.Write("p", "abc\xfe")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0xfe at offset 3")));
  EXPECT_THAT(ReadPromptFile("/dev/zero"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("over 67108864 bytes")));
}

}  // namespace
}  // namespace longhaul::cli
