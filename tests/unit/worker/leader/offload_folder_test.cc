#include "worker/leader/offload_folder.h"

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::worker::leader {
namespace {

namespace fs = std::filesystem;
using ::longhaul::testing::StatusIs;
using ::longhaul::testing::TempDir;
using ::testing::HasSubstr;

class OffloadFolderTest : public ::testing::Test {
 protected:
  std::unique_ptr<OffloadFolder> Create() {
    auto folder = OffloadFolder::Create(dir_.path(), 0, 1);
    EXPECT_OK(folder);
    return folder.ok() ? *std::move(folder) : nullptr;
  }
  static void Touch(const fs::path& file) { std::ofstream(file) << "x"; }
  std::set<std::string> Names() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir_.path())) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }
  // The folder of a leader that was killed.
  std::string LeaveBehind() {
    std::string path;
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      auto folder = OffloadFolder::Create(dir_.path(), 0, 1);
      if (!folder.ok()) _exit(1);
      Touch(fs::path((*folder)->path()) / "rank0.kv");
      Touch(fs::path((*folder)->path()) / "rank17.kv");
      const std::string& name = (*folder)->path();
      _exit(write(ends[1], name.data(), name.size()) == static_cast<ssize_t>(name.size()) ? 0 : 1);
    }
    close(ends[1]);
    char buffer[4096];
    const ssize_t size = read(ends[0], buffer, sizeof(buffer));
    close(ends[0]);
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    return std::string(buffer, size > 0 ? static_cast<size_t>(size) : 0);
  }

  const TempDir dir_;
};

TEST_F(OffloadFolderTest, IsRemovedWithWhatRanksPutThere) {
  auto folder = Create();
  EXPECT_EQ(fs::path(folder->path()).parent_path(), dir_.path());
  Touch(fs::path(folder->path()) / "rank0.kv");
  Touch(fs::path(folder->path()) / "rank255.kv");
  folder.reset();
  EXPECT_TRUE(Names().empty());
}

TEST_F(OffloadFolderTest, LeadersHaveFoldersOfTheirOwnAndLeaveOthersAlone) {
  const auto first = Create();
  Touch(fs::path(first->path()) / "rank0.kv");
  auto second = Create();
  EXPECT_NE(first->path(), second->path());
  EXPECT_TRUE(fs::exists(fs::path(first->path()) / "rank0.kv"));
  second.reset();
  EXPECT_TRUE(fs::exists(fs::path(first->path()) / "rank0.kv"));
}

TEST_F(OffloadFolderTest, LeftoversOfDeadLeadersAreRemoved) {
  const auto alive = Create();
  const std::string dead = LeaveBehind();
  const std::string lockless = dir_.path() + "/longhaul-kv-abcdef";  // died before it had a lock
  fs::create_directory(lockless);
  ASSERT_TRUE(fs::exists(dead + "/rank17.kv"));
  const auto next = Create();
  EXPECT_FALSE(fs::exists(dead));
  EXPECT_FALSE(fs::exists(lockless));
  EXPECT_EQ(Names(), (std::set<std::string>{fs::path(alive->path()).filename().string(),
                                            fs::path(next->path()).filename().string()}));
}

TEST_F(OffloadFolderTest, WhatIsNotOursStays) {
  const std::string dead = LeaveBehind();
  for (const char* name : {"notes.txt", "rank.kv", "rank1.kv.bak", "rank-1.kv"}) {
    Touch(fs::path(dead) / name);
    Create();
    EXPECT_TRUE(fs::exists(dead + "/rank0.kv")) << name;
    EXPECT_TRUE(fs::exists(fs::path(dead) / name)) << name;
    fs::remove(fs::path(dead) / name);
  }
  fs::create_directory(dead + "/rank2.kv");
  Create();
  EXPECT_TRUE(fs::exists(dead + "/rank0.kv"));
  fs::remove(dead + "/rank2.kv");

  // Other folders, and links to one of ours.
  const TempDir elsewhere;
  fs::create_directory(elsewhere.path() + "/target");
  Touch(elsewhere.path() + "/target/rank0.kv");
  Touch(elsewhere.path() + "/target/leader.lock");
  fs::create_symlink(elsewhere.path() + "/target", dir_.path() + "/longhaul-kv-linked");
  fs::create_directory(dir_.path() + "/other");
  Touch(dir_.path() + "/other/rank0.kv");
  Touch(dir_.path() + "/longhaul-kv-file");
  Create();
  EXPECT_FALSE(fs::exists(dead));
  EXPECT_TRUE(fs::exists(elsewhere.path() + "/target/rank0.kv"));
  EXPECT_TRUE(fs::exists(dir_.path() + "/other/rank0.kv"));
  EXPECT_TRUE(fs::exists(dir_.path() + "/longhaul-kv-file"));
}

TEST_F(OffloadFolderTest, NamesTheSettingThatIsWrong) {
  EXPECT_THAT(OffloadFolder::Create(dir_.path() + "/none", 0, 1).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv-offload-dir is ")));
  EXPECT_THAT(OffloadFolder::Create(dir_.Write("file", "x"), 0, 1).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no such folder")));
  EXPECT_THAT(OffloadFolder::Create("/proc", 0, 1).status(),  // not even for root
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv-offload-dir is /proc: ")));
  EXPECT_THAT(OffloadFolder::Create(dir_.path(), 1 << 20, 2).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("kv-offload-disk-gib is 1.04858e+06 for each of 2 ranks")));
  EXPECT_EQ(Names(), std::set<std::string>{"file"});
}

}  // namespace
}  // namespace longhaul::worker::leader
