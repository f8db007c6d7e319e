#pragma once

#include "absl/status/status.h"

namespace longhaul {

// Prepares DumpStacks: installs its signal handler (SIGRTMIN + 1). Once, at a program's start.
void PrepareStackDump();

// Writes the stack of every thread of this process to `fd`, each behind a line with the thread's
// number and name: for whoever wants to know where a process hangs. Frames carry function names
// where the program exports them, addresses for addr2line else. A thread that does not answer in
// 200 ms (stopped, or in an uninterruptible wait) is named without a stack; 256 threads at most.
//
// Each thread is interrupted by a signal: system calls that are not restarted return EINTR to it.
// Thread-safe; one dump at a time. Errors: kFailedPrecondition without PrepareStackDump, kInternal
// if the list of threads cannot be read.
absl::Status DumpStacks(int fd);

}  // namespace longhaul
