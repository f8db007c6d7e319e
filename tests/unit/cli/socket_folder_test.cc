#include "cli/socket_folder.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::cli {
namespace {

using testing::StatusIs;

void BindSocket(const std::string& path) {
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  path.copy(address.sun_path, path.size());
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  close(fd);
}

TEST(SocketFolder, IsPrivateAndGoesWithItsOwner) {
  const testing::TempDir parent;
  ASSERT_OK_AND_ASSIGN(auto folder, SocketFolder::Make(parent.path()));
  const std::string path = folder->path();
  EXPECT_EQ(folder->Socket("s"), "unix:" + path + "/s");
  struct stat found {};
  ASSERT_EQ(stat(path.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0700);
  BindSocket(path + "/s");
  folder.reset();
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(SocketFolder, RemovesWhatAKilledProcessLeft) {
  const testing::TempDir parent;
  const std::string stale = parent.path() + "/longhaul-run-AbC123";
  std::filesystem::create_directory(stale);
  BindSocket(stale + "/group-0");
  ASSERT_OK_AND_ASSIGN(const auto folder, SocketFolder::Make(parent.path()));
  EXPECT_FALSE(std::filesystem::exists(stale));
}

TEST(SocketFolder, LeavesFoldersInUseAndOfOthers) {
  const testing::TempDir parent;
  ASSERT_OK_AND_ASSIGN(const auto running, SocketFolder::Make(parent.path()));
  BindSocket(running->path() + "/group-0");
  const std::string named_alike = parent.path() + "/longhaul-run-report";
  const std::string with_file = parent.path() + "/longhaul-run-abcdef";
  for (const std::string& path : {named_alike, with_file}) {
    std::filesystem::create_directory(path);
  }
  std::ofstream(with_file + "/notes") << "text";
  ASSERT_OK_AND_ASSIGN(const auto folder, SocketFolder::Make(parent.path()));
  EXPECT_TRUE(std::filesystem::exists(running->path() + "/group-0"));
  EXPECT_TRUE(std::filesystem::exists(with_file + "/notes"));
}

TEST(SocketFolder, NamesAFolderThatIsNotThere) {
  EXPECT_THAT(SocketFolder::Make("/no/such/folder"),
              StatusIs(absl::StatusCode::kUnavailable, ::testing::HasSubstr("/no/such/folder")));
}

}  // namespace
}  // namespace longhaul::cli
