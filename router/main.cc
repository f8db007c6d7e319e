// longhaul-router: the client side of Longhaul. See docs/architecture.md.
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <iostream>

#include "absl/status/status.h"
#include "common/flags.h"
#include "common/logging.h"
#include "router/router_config.h"
#include "router/server.h"

namespace longhaul::router {
namespace {

// What a request took goes back to the system when it is gone. Bodies and prompts are megabytes
// that live for seconds. Blocks of this size go back when they are freed; glibc would raise its own
// threshold to 32 MiB and keep the holes they leave.
constexpr int kOwnMappingBytes = 256 << 10;
// Smaller blocks leave holes, too: a request of a million short strings, say. Their pages go back
// at this period, but not those at the end of a thread's arena: they go when a neighbour is freed,
// and so no freed block may wait in a fast bin for later. A few arenas have fewer holes than one
// for each thread.
constexpr timespec kTrimPeriod{.tv_sec = 5, .tv_nsec = 0};
constexpr int kFastBinBytes = 0;
constexpr int kMaxArenas = 4;

// On by default in gRPC 1.51: each connection, idle ones too, holds buffers for as much as it ever
// received at once, and no option bounds them. Without it rpc/grpc_frontend.cc does. gRPC has no
// other way to turn it off; what the operator sets in the environment counts.
constexpr char kGrpcExperiments[] = "-tcp_read_chunks";

int Main(int argc, char** argv) {
  SetLogProgram("router");
  setenv("GRPC_EXPERIMENTS", kGrpcExperiments, /*replace=*/0);
  mallopt(M_MMAP_THRESHOLD, kOwnMappingBytes);
  mallopt(M_MXFAST, kFastBinBytes);
  mallopt(M_ARENA_MAX, kMaxArenas);
  CLI::App app("Longhaul's router: gRPC and OpenAI-compatible REST in front of worker groups");
  RouterConfig config;
  ConfigFlags flags;
  flags.AddTo(app, FieldsOf(config));
  if (const auto exit_code = ParseCommandLine(app, argc, argv)) return *exit_code;
  if (const absl::Status status = flags.Resolve(); !status.ok()) {
    std::cerr << "longhaul-router: " << status.message() << "\n";
    return 2;
  }

  // Blocked before any thread starts, so that sigwait below is the only one to see them.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGTERM);
  sigaddset(&stop_signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  const absl::Status status = RunRouter(
      config,
      [](const RouterAddresses& addresses) {
        std::cout << "ready role=router rest=" << addresses.rest << " grpc=" << addresses.grpc
                  << std::endl;
      },
      [&stop_signals] {
        int signal_number = -1;
        while ((signal_number = sigtimedwait(&stop_signals, nullptr, &kTrimPeriod)) < 0) {
          malloc_trim(0);
        }
        LOG(INFO) << "event=signal number=" << signal_number;
      });
  if (!status.ok()) {
    LOG(ERROR) << "event=failed status=" << status;
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace longhaul::router

int main(int argc, char** argv) { return longhaul::router::Main(argc, argv); }
