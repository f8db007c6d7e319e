#include "common/stack_dump.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "common/mutex.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

std::string Dump() {
  const testing::TempDir folder;
  const std::string path = folder.path() + "/dump";
  FILE* file = std::fopen(path.c_str(), "w");
  EXPECT_OK(DumpStacks(fileno(file)));
  std::fclose(file);
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// First in this file: another test prepares.
TEST(StackDump, NeedsToBePrepared) {
  EXPECT_THAT(DumpStacks(STDERR_FILENO),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("PrepareStackDump")));
}

TEST(StackDump, ShowsWhereEachThreadIs) {
  PrepareStackDump();
  std::atomic<bool> waits = false;
  std::atomic<bool> stop = false;
  std::thread stuck([&] {
    pthread_setname_np(pthread_self(), "stuck-in-loop");
    waits = true;
    while (!stop) usleep(1000);
  });
  while (!waits) std::this_thread::yield();
  for (int i = 0; i < 20; ++i) {
    const std::string dump = Dump();
    EXPECT_THAT(dump, ContainsRegex("thread [0-9]+ stuck-in-loop\n[^\n]+0x[0-9a-f]+\\]\n"));
  }
  stop = true;
  stuck.join();
}

TEST(StackDump, NamesAThreadThatDoesNotAnswer) {
  PrepareStackDump();
  std::atomic<bool> waits = false;
  std::atomic<bool> stop = false;
  std::thread deaf([&] {
    pthread_setname_np(pthread_self(), "deaf");
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    waits = true;
    while (!stop) usleep(1000);
  });
  while (!waits) std::this_thread::yield();
  EXPECT_THAT(Dump(), ContainsRegex("thread [0-9]+ deaf\n  does not answer\n"));
  stop = true;
  deaf.join();
}

}  // namespace
}  // namespace longhaul
