// Kernels of a decode step on a chained stream start before those ahead of them have ended: whether
// each waits for what it reads, and before it overwrites what others read.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/testing/cuda_testing.h"
#include "tests/testing/decode_chain.h"

namespace longhaul::kernels {
namespace {

using longhaul::testing::CheckCuda;
using longhaul::testing::CudaTest;
using longhaul::testing::DecodeChain;
using longhaul::testing::DecodeShape;
using longhaul::testing::DeviceArray;
using longhaul::testing::FreshRandom;

class DecodeChainTest : public CudaTest {
 protected:
  struct Answer {
    std::vector<BFloat16> hidden;
    std::vector<float> logits;
    bool operator==(const Answer& other) const {
      return std::memcmp(hidden.data(), other.hidden.data(), hidden.size() * sizeof(BFloat16)) ==
                 0 &&
             longhaul::testing::SameBits(logits, other.logits);
    }
  };

  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    gemm_ = GemmCuda::Create();
    ASSERT_NE(gemm_, nullptr);
  }

  void Check(DecodeShape shape, int32_t num_rows, int64_t num_tokens) {
    SCOPED_TRACE(::testing::Message()
                 << "hidden " << shape.hidden << " rows " << num_rows << " tokens " << num_tokens);
    shape.num_rows = num_rows;
    shape.num_tokens = num_tokens;
    memory_.clear();
    const longhaul::testing::DecodeMemory memory = {
        .take = [this](int64_t bytes) { return Take(bytes); },
        .take_with =
            [this](const void* host, int64_t bytes) {
              const auto* from = static_cast<const uint8_t*>(host);
              return Add(std::vector<uint8_t>(from, from + bytes));
            }};
    const DecodeChain chain(shape, memory, num_rows > kMaxGemvRows ? gemm_.get() : nullptr);
    const auto cuda_stream = static_cast<cudaStream_t>(stream().handle);
    const DeviceStream chained = {cuda_stream, /*chained=*/true};
    const auto launch = [&](DeviceStream on) { EXPECT_EQ(chain.Launch(on), KernelStatus::kOk); };
    // By turns, so that nothing of the step before is right: the new token's keys least of all.
    const Answer want[] = {Step(chain, 0, [&] { launch(stream()); }),
                           Step(chain, 1, [&] { launch(stream()); })};
    EXPECT_FALSE(want[0] == want[1]);
    for (const float logit : want[0].logits) ASSERT_TRUE(std::isfinite(logit));
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_TRUE(Step(chain, i % 2, [&] { launch(chained); }) == want[i % 2]) << "launched, " << i;
    }
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    CheckCuda(cudaStreamBeginCapture(cuda_stream, cudaStreamCaptureModeThreadLocal), "capture");
    launch(chained);
    CheckCuda(cudaStreamEndCapture(cuda_stream, &graph), "end of capture");
    CheckCuda(cudaGraphInstantiate(&ready, graph, 0), "cudaGraphInstantiate");
    for (size_t i = 0; i < 50; ++i) {
      const Answer got = Step(
          chain, i % 2, [&] { CheckCuda(cudaGraphLaunch(ready, cuda_stream), "cudaGraphLaunch"); });
      EXPECT_TRUE(got == want[i % 2]) << "as a graph, " << i;
    }
    CheckCuda(cudaGraphExecDestroy(ready), "cudaGraphExecDestroy");
    CheckCuda(cudaGraphDestroy(graph), "cudaGraphDestroy");
  }

 private:
  // One step from one of two starts, by whatever `launch` enqueues.
  template <typename LaunchStep>
  Answer Step(const DecodeChain& chain, size_t start, const LaunchStep& launch) {
    const DecodeShape& shape = chain.shape();
    Answer answer{std::vector<BFloat16>(static_cast<size_t>(shape.num_rows) * shape.hidden),
                  std::vector<float>(static_cast<size_t>(shape.num_rows) * shape.vocab_size)};
    const size_t hidden_bytes = answer.hidden.size() * sizeof(BFloat16);
    const size_t logits_bytes = answer.logits.size() * sizeof(float);
    CheckCuda(
        cudaMemcpy(chain.hidden(), &words_[100'003 * start], hidden_bytes, cudaMemcpyHostToDevice),
        "the start");
    CheckCuda(cudaMemset(chain.logits(), 0xff, logits_bytes), "poison");
    CheckCuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    launch();
    Sync();
    CheckCuda(
        cudaMemcpy(answer.hidden.data(), chain.hidden(), hidden_bytes, cudaMemcpyDeviceToHost),
        "what is left");
    CheckCuda(
        cudaMemcpy(answer.logits.data(), chain.logits(), logits_bytes, cudaMemcpyDeviceToHost),
        "logits");
    return answer;
  }

  // bf16 of size 0.5 to 1 in either half of a word, of random signs.
  static std::vector<uint32_t> RandomWords() {
    std::mt19937_64 random = FreshRandom();
    std::vector<uint32_t> words(3'000'017);  // matrices begin at other places of it
    for (uint32_t& word : words) {
      word = (static_cast<uint32_t>(random()) & 0x807f807fu) | 0x3f003f00u;
    }
    return words;
  }

  void* Add(const std::vector<uint8_t>& bytes) {
    memory_.push_back(std::make_unique<DeviceArray<uint8_t>>(bytes));
    return memory_.back()->data();
  }

  void* Take(int64_t bytes) {
    std::vector<uint8_t> values(static_cast<size_t>(bytes));
    const size_t all = words_.size() * sizeof(uint32_t);
    for (size_t done = 0; done < values.size();) {
      const size_t part = std::min(all - next_, values.size() - done);
      std::memcpy(&values[done], reinterpret_cast<const uint8_t*>(words_.data()) + next_, part);
      done += part;
      next_ = (next_ + part) % all / sizeof(uint32_t) * sizeof(uint32_t);
    }
    return Add(values);
  }

  std::unique_ptr<GemmCuda> gemm_;
  const std::vector<uint32_t> words_ = RandomWords();
  size_t next_ = 0;  // byte of words_
  std::vector<std::unique_ptr<DeviceArray<uint8_t>>> memory_;
};

constexpr DecodeShape kDemo = {.num_layers = 4,
                               .hidden = 256,
                               .intermediate = 768,
                               .num_q_heads = 4,
                               .num_kv_heads = 2,
                               .head_dim = 128,
                               .vocab_size = 2048};
constexpr DecodeShape k7b = {.num_layers = 2,
                             .hidden = 3584,
                             .intermediate = 18'944,
                             .num_q_heads = 28,
                             .num_kv_heads = 4,
                             .head_dim = 128,
                             .vocab_size = 8192};

TEST_F(DecodeChainTest, HasTheBitsOfKernelsThatWaitForEachOther) {
  for (const int num_rows : {1, 2, 3, 40}) {
    for (const int64_t num_tokens : {1, 17, 1500}) Check(kDemo, num_rows, num_tokens);
  }
}

TEST_F(DecodeChainTest, HasThemAtTheSizesOfThe7b) {
  for (const int num_rows : {1, 2, 5}) {
    for (const int64_t num_tokens : {200, 5000}) Check(k7b, num_rows, num_tokens);
  }
}

}  // namespace
}  // namespace longhaul::kernels
