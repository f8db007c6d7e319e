#include "worker/comm/local_communicator.h"

#include "tests/unit/worker/comm/communicator_contract.h"

namespace longhaul::worker::comm {
namespace {

struct LocalFactory {
  static std::vector<std::unique_ptr<Communicator>> MakeGroup(int size, absl::Duration timeout) {
    return MakeLocalGroup(size, {.timeout = timeout});
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Local, CommunicatorContract, LocalFactory);

TEST(LocalCommunicator, BothSidesHearOfSizesThatDiffer) {
  auto ranks = MakeLocalGroup(2);
  std::vector<float> two(2);
  std::vector<float> three(3);
  std::thread sender([&] {
    EXPECT_TRUE(
        absl::IsInvalidArgument(ranks[0]->Send({two.data(), DType::kFloat32, 1, 2}, 1, {})));
  });
  EXPECT_TRUE(
      absl::IsInvalidArgument(ranks[1]->Recv({three.data(), DType::kFloat32, 1, 3}, 0, {})));
  sender.join();
}

TEST(LocalCommunicator, SumsFp32Only) {
  auto ranks = MakeLocalGroup(1);
  std::vector<uint16_t> values(2);
  EXPECT_TRUE(
      absl::IsInvalidArgument(ranks[0]->AllReduceSum({values.data(), DType::kBFloat16, 1, 2}, {})));
}

}  // namespace
}  // namespace longhaul::worker::comm
