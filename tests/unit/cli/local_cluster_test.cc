#include "cli/local_cluster.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::cli {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

TEST(ServedName, IsTheDirectorysUnlessOneIsGiven) {
  const testing::TempDir folder;
  std::filesystem::create_directory(folder.path() + "/Qwen 7B");
  std::filesystem::create_symlink(folder.path() + "/Qwen 7B", folder.path() + "/link");
  EXPECT_EQ(ServedName(folder.path() + "/Qwen 7B//", "").value_or("error"), "Qwen 7B");
  EXPECT_EQ(ServedName(folder.path() + "/link", "").value_or("error"), "Qwen 7B");
  EXPECT_EQ(ServedName(folder.path(), "größer/7b").value_or("error"), "größer/7b");
}

TEST(ServedName, IsPrintable) {
  for (const std::string& name : {std::string("a\nb"), std::string("a\x1b"), std::string("\x7f"),
                                  std::string("a\0b", 3), std::string("a\xff")}) {
    EXPECT_THAT(ServedName("dir", name),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("served-model-name")))
        << ::testing::PrintToString(name);
  }
  EXPECT_OK(ServedName("dir", std::string(256, 'x')).status());
  EXPECT_THAT(ServedName("dir", std::string(257, 'x')),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::_));
}

}  // namespace
}  // namespace longhaul::cli
