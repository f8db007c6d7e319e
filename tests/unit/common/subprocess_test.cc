#include "common/subprocess.h"

#include <gtest/gtest.h>
#include <signal.h>

#include "absl/time/clock.h"
#include "tests/testing/status_matchers.h"

namespace longhaul {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

std::unique_ptr<Subprocess> Shell(const std::string& script) {
  auto child = Subprocess::Start({.argv = {"/bin/sh", "-c", script},
                                  .extra_env = {{"LONGHAUL_TEST_WORD", "hello"}},
                                  .capture_stdout = true});
  EXPECT_OK(child);
  return std::move(child).value();
}

TEST(Subprocess, ReportsTheExitCode) {
  const auto exit = Shell("exit 3")->Wait(Soon());
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->code, 3);
  EXPECT_EQ(exit->ToString(), "exit code 3");
}

TEST(Subprocess, ReportsTheSignal) {
  const auto exit = Shell("kill -9 $$")->Wait(Soon());
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->signal, SIGKILL);
  EXPECT_THAT(exit->ToString(), HasSubstr("signal 9"));
}

TEST(Subprocess, ReadsLinesThenTheEnd) {
  const auto child = Shell("echo \"$LONGHAUL_TEST_WORD\"; echo two");
  EXPECT_EQ(*child->ReadLine(Soon()), "hello");
  EXPECT_EQ(*child->ReadLine(Soon()), "two");
  EXPECT_THAT(child->ReadLine(Soon()),
              StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("closed")));
}

TEST(Subprocess, ReadLineEndsAtTheDeadline) {
  const auto child = Shell("exec sleep 30");
  EXPECT_THAT(child->ReadLine(absl::Now() + absl::Milliseconds(20)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("deadline")));
  EXPECT_EQ(child->Poll(), std::nullopt);
}

TEST(Subprocess, StopTerminatesAndThenKills) {
  EXPECT_EQ(Shell("exec sleep 30")->Stop(absl::Seconds(20)).signal, SIGTERM);
  const auto stubborn = Shell("trap '' TERM; echo up; exec sleep 30");
  ASSERT_OK(stubborn->ReadLine(Soon()));
  EXPECT_EQ(stubborn->Stop(absl::Milliseconds(100)).signal, SIGKILL);
}

TEST(Subprocess, AMissingProgramIsNamed) {
  EXPECT_THAT(Subprocess::Start({.argv = {"/nonexistent/program"}}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nonexistent/program")));
}

TEST(Subprocess, DestructionEndsTheChild) {
  pid_t pid = 0;
  {
    const auto child = Shell("exec sleep 30");
    pid = child->pid();
  }
  EXPECT_EQ(kill(pid, 0), -1);
}

}  // namespace
}  // namespace longhaul
