#include "cli/batch_output.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "cli/batch_codec.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::cli {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

std::string Result(const std::string& custom_id, int status) {
  return EncodeBatchResponse("0", custom_id, status, "r", R"({"status":)" + custom_id + "}");
}

class BatchOutputTest : public ::testing::Test {
 protected:
  std::string Content() const {
    std::ifstream file(path_, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  void Write(const std::string& content) const { folder_.Write("out", content); }
  absl::Status Open() const { return BatchOutput::Open(path_).status(); }

  const testing::TempDir folder_;
  const std::string path_ = folder_.path() + "/out";
};

TEST_F(BatchOutputTest, MakesTheFileAndAddsLines) {
  {
    ASSERT_OK_AND_ASSIGN(const auto output, BatchOutput::Open(path_));
    EXPECT_OK(output->Append(Result("1", 200)));
    EXPECT_OK(output->Append(Result("2", 404)));
  }
  EXPECT_EQ(Content(), Result("1", 200) + Result("2", 404));
  ASSERT_OK_AND_ASSIGN(const auto output, BatchOutput::Open(path_));
  EXPECT_EQ(output->Succeeded("1"), true);
  EXPECT_EQ(output->Succeeded("2"), false);
  EXPECT_EQ(output->Succeeded("3"), std::nullopt);
}

TEST_F(BatchOutputTest, LeavesOutWhatIsToBeTriedAgain) {
  Write(Result("1", 503) + Result("2", 200) + Result("2", 200) +
        EncodeBatchFailure("0", "3", absl::UnavailableError("gone")) +
        EncodeBatchFault("0", std::nullopt, absl::InvalidArgumentError("no id")) +
        Result("4", 400));
  ASSERT_OK_AND_ASSIGN(const auto output, BatchOutput::Open(path_));
  EXPECT_EQ(Content(), Result("2", 200) + Result("4", 400));
  EXPECT_EQ(output->Succeeded("1"), std::nullopt);
  EXPECT_OK(output->Append(Result("1", 200)));
  EXPECT_EQ(Content(), Result("2", 200) + Result("4", 400) + Result("1", 200));
}

// Cut at any byte, the file keeps its whole lines and nothing else, and takes the next one.
TEST_F(BatchOutputTest, RecoversFromEveryTornEnd) {
  const std::string first = Result("1", 200);
  const std::string whole = first + Result("2", 200);
  for (size_t size = 0; size <= whole.size(); size++) {
    Write(whole.substr(0, size));
    ASSERT_OK_AND_ASSIGN(const auto output, BatchOutput::Open(path_));
    const std::string kept = size == whole.size() ? whole : size >= first.size() ? first : "";
    ASSERT_EQ(Content(), kept) << size;
    ASSERT_OK(output->Append(Result("3", 200)));
    ASSERT_EQ(Content(), kept + Result("3", 200)) << size;
  }
}

TEST_F(BatchOutputTest, LeavesOtherFilesAsTheyAre) {
  for (const std::string& content :
       {std::string("a note"), std::string("a note\n"), std::string("\n"),
        Result("1", 503) + R"({"custom_id":"1","url":"/v1/completions","body":{}})"
                           "\n"}) {
    Write(content);
    EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no result")));
    EXPECT_EQ(Content(), content);
  }
}

TEST_F(BatchOutputTest, IsOneProcessAtATime) {
  Write(Result("1", 503));  // rewritten by the first: the lock goes with the new file
  ASSERT_OK_AND_ASSIGN(auto output, BatchOutput::Open(path_));
  EXPECT_THAT(Open(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another")));
  output.reset();
  EXPECT_OK(Open());
}

TEST_F(BatchOutputTest, KeepsALinkAndWhatAKilledRewriteLeftIsNoHindrance) {
  Write(Result("1", 503) + Result("2", 200));
  folder_.Write(".out.longhaul", "half of a rew");
  std::filesystem::create_symlink(path_, folder_.path() + "/link");
  EXPECT_OK(BatchOutput::Open(folder_.path() + "/link").status());
  EXPECT_TRUE(std::filesystem::is_symlink(folder_.path() + "/link"));
  EXPECT_EQ(Content(), Result("2", 200));
  EXPECT_FALSE(std::filesystem::exists(folder_.path() + "/.out.longhaul"));
}

TEST_F(BatchOutputTest, RefusesWhatIsNoFile) {
  EXPECT_THAT(BatchOutput::Open("/dev/null"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("regular file")));
  EXPECT_THAT(BatchOutput::Open(folder_.path() + "/none/out"),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("/none/out")));
}

TEST_F(BatchOutputTest, AFullDiskLeavesWholeLinesOnly) {
  ASSERT_OK_AND_ASSIGN(const auto output, BatchOutput::Open(path_));
  ASSERT_OK(output->Append(Result("1", 200)));
  // A limit on the file's size stands in for the disk's.
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit limit{.rlim_cur = Content().size() + 10, .rlim_max = before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const absl::Status status = output->Append(Result("2", 200));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr(path_)));
  EXPECT_EQ(Content(), Result("1", 200));
  EXPECT_OK(output->Append(Result("3", 200)));
  EXPECT_EQ(Content(), Result("1", 200) + Result("3", 200));
}

}  // namespace
}  // namespace longhaul::cli
