// All-reduce and send between processes of this machine, over Gloo on the loopback.
//
//   comm_bench [--ranks 2] [--seconds 1]
//
// Prints for each size the median time of a call and bytes / time.
#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/subprocess.h"
#include "tests/testing/folder_rendezvous.h"
#include "tests/testing/temp_dir.h"
#include "worker/comm/gloo_communicator.h"

namespace longhaul::worker::comm {
namespace {

constexpr int64_t kSizes[] = {4 << 10, 16 << 10, 1 << 20, 64 << 20};

enum class Call { kSum, kSend };

absl::Status Make(Communicator& comm, Call call, TensorView view) {
  if (call == Call::kSum) return comm.AllReduceSum(view, {});
  if (comm.rank() > 1) return absl::OkStatus();
  return comm.rank() == 0 ? comm.Send(view, 1, {}) : comm.Recv(view, 0, {});
}

// Rank 0 measures and tells the others after each call whether another one follows.
void Measure(Communicator& comm, Call call, int64_t bytes, absl::Duration seconds) {
  std::vector<float> values(static_cast<size_t>(bytes) / sizeof(float), 1.0F);
  const TensorView view{values.data(), DType::kFloat32, 1, static_cast<int64_t>(values.size())};
  std::vector<double> times;
  const absl::Time end = absl::Now() + seconds;
  float again = 1;
  while (again != 0) {
    const absl::Time begin = absl::Now();
    const absl::Status status = Make(comm, call, view);
    CHECK(status.ok()) << status;
    times.push_back(absl::ToDoubleSeconds(absl::Now() - begin));
    std::fill(values.begin(), values.end(), 1.0F);  // sums would grow without bound
    again = absl::Now() < end || times.size() < 3 ? 1 : 0;
    const absl::Status told = comm.Broadcast({&again, DType::kFloat32, 1, 1}, 0, {});
    CHECK(told.ok()) << told;
  }
  if (comm.rank() != 0) return;
  std::nth_element(times.begin(), times.begin() + static_cast<int64_t>(times.size() / 2),
                   times.end());
  const double median = times[times.size() / 2];
  std::printf("%-10s %9.0f KiB  %9.3f ms  %6.2f GB/s  (%zu calls)\n",
              call == Call::kSum ? "all-reduce" : "send", static_cast<double>(bytes) / 1024,
              median * 1e3, static_cast<double>(bytes) / median / 1e9, times.size());
}

int Run(int rank, int ranks, double seconds, const std::string& folder) {
  std::unique_ptr<testing::TempDir> made;
  std::vector<std::unique_ptr<Subprocess>> peers;
  if (rank == 0) {
    made = std::make_unique<testing::TempDir>();
    const auto programs = ProgramFolder();
    CHECK(programs.ok()) << programs.status();
    for (int peer = 1; peer < ranks; ++peer) {
      auto started =
          Subprocess::Start({.argv = {*programs + "/comm_bench", "--rank", absl::StrCat(peer),
                                      "--ranks", absl::StrCat(ranks), "--seconds",
                                      absl::StrCat(seconds), "--folder", made->path()}});
      CHECK(started.ok()) << started.status();
      peers.push_back(*std::move(started));
    }
  }
  testing::FolderRendezvous store(made == nullptr ? folder : made->path());
  const auto comm = MakeGlooCommunicator({.rank = rank, .size = ranks}, store);
  CHECK(comm.ok()) << comm.status();
  for (const Call call : {Call::kSum, Call::kSend}) {
    for (const int64_t bytes : kSizes) Measure(**comm, call, bytes, absl::Seconds(seconds));
  }
  for (auto& peer : peers) peer->Wait(absl::Now() + absl::Seconds(10));
  return 0;
}

}  // namespace
}  // namespace longhaul::worker::comm

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  CLI::App app("All-reduce and send between processes over Gloo on the loopback");
  int rank = 0;
  int ranks = 2;
  double seconds = 1;
  std::string folder;
  app.add_option("--ranks", ranks, "processes")->check(CLI::Range(2, 16));
  app.add_option("--seconds", seconds, "time for each size");
  app.add_option("--rank", rank, "of a process that this program started");
  app.add_option("--folder", folder, "where it meets the others");
  CLI11_PARSE(app, argc, argv);
  return longhaul::worker::comm::Run(rank, ranks, seconds, folder);
}
