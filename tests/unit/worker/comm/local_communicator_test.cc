#include "worker/comm/local_communicator.h"

#include "tests/unit/worker/comm/communicator_contract.h"

namespace longhaul::worker::comm {
namespace {

struct LocalFactory : CommunicatorTraits {
  static std::vector<std::unique_ptr<Communicator>> MakeGroup(int size, absl::Duration timeout) {
    return MakeLocalGroup(size, {.timeout = timeout});
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Local, CommunicatorContract, LocalFactory);

}  // namespace
}  // namespace longhaul::worker::comm
