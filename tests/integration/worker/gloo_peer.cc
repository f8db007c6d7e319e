// A rank of a Gloo group in a process of its own, for gloo_processes_test: connects, says "ready",
// repeats one call until it fails, says "ended CODE: message".
//
//   gloo_peer FOLDER RANK SIZE TIMEOUT_MS sum|send|receive|idle [ELEMENTS]
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tests/testing/folder_rendezvous.h"
#include "worker/comm/gloo_communicator.h"

namespace longhaul::worker::comm {
namespace {

int Run(const std::vector<std::string>& arguments) {
  testing::FolderRendezvous store(arguments[1]);
  auto made = MakeGlooCommunicator({.rank = std::atoi(arguments[2].c_str()),
                                    .size = std::atoi(arguments[3].c_str()),
                                    .timeout = absl::Milliseconds(std::atoi(arguments[4].c_str()))},
                                   store);
  if (!made.ok()) {
    std::cout << "ended " << made.status() << std::endl;
    return 1;
  }
  Communicator& comm = **made;
  std::vector<float> values(arguments.size() > 6 ? std::strtoul(arguments[6].c_str(), nullptr, 10)
                                                 : 1);
  const TensorView view{values.data(), DType::kFloat32, 1, static_cast<int64_t>(values.size())};
  std::cout << "ready" << std::endl;
  absl::Status status;
  while (status.ok()) {
    if (arguments[5] == "sum") {
      status = comm.AllReduceSum(view, {});
    } else if (arguments[5] == "send") {
      status = comm.Send(view, 0, {});
    } else if (arguments[5] == "receive") {
      status = comm.Recv(view, 0, {});
    } else {
      status = comm.Poll();
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  std::cout << "ended " << status << std::endl;
  return 0;
}

}  // namespace
}  // namespace longhaul::worker::comm

int main(int argc, char** argv) {
  if (argc < 6) return 2;
  signal(SIGPIPE, SIG_IGN);
  return longhaul::worker::comm::Run({argv, argv + argc});
}
