#include "worker/rank/rank_device.h"

#include "tests/testing/status_matchers.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::AnyOf;
using ::testing::HasSubstr;

TEST(RankDevice, OfTheCpuHoldsKeysAndValuesAsAsked) {
  RankConfig config;
  config.threads = 1;
  ASSERT_OK_AND_ASSIGN(RankDevice device, MakeRankDevice(config));
  EXPECT_EQ(device.kv_dtype, backend::KvDType::kFloat32);
  EXPECT_FALSE(device.has_own_memory);
  EXPECT_EQ(device.backend->activation_dtype(), DType::kFloat32);
  config.kv_cache_dtype = "bf16";
  ASSERT_OK_AND_ASSIGN(device, MakeRankDevice(config));
  EXPECT_EQ(device.kv_dtype, backend::KvDType::kBFloat16);
}

TEST(RankDevice, OfCudaHasNoFp32Cache) {
  RankConfig config;
  config.device = "cuda";
  config.kv_cache_dtype = "fp32";
  EXPECT_THAT(MakeRankDevice(config).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--kv-cache-dtype is fp32")));
}

TEST(RankDevice, IsRefusedWhereTheBuildOrTheHostHasNone) {
  RankConfig config;
  config.device = "cuda";
  config.cuda_device = 511;
  EXPECT_THAT(
      MakeRankDevice(config).status(),
      AnyOf(StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("was built without CUDA")),
            StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("--cuda-device 511"))));
}

TEST(RankDevice, NamesWhatAModelHasAndKernelsOfCudaLack) {
  const ModelConfig fits = {.num_layers = 2,
                            .hidden_size = 256,
                            .intermediate_size = 512,
                            .num_heads = 4,
                            .num_kv_heads = 2,
                            .head_dim = 64,
                            .vocab_size = 1000};
  const GroupShape alone(2);
  EXPECT_OK(CheckCudaModel(fits, alone));
  const auto refused = [&](auto change) {
    ModelConfig model = fits;
    change(model);
    return CheckCudaModel(model, alone);
  };
  const auto names = [](const char* property) {
    return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(property));
  };
  EXPECT_THAT(refused([](ModelConfig& m) { m.head_dim = 96; }), names("head_dim is 96"));
  EXPECT_THAT(refused([](ModelConfig& m) { m.num_heads = 64; }),
              names("num_attention_heads / num_key_value_heads is 32"));
  EXPECT_THAT(refused([](ModelConfig& m) { m.hidden_size = 8200; }), names("hidden_size is 8200"));
  EXPECT_THAT(refused([](ModelConfig& m) { m.intermediate_size = 515; }),
              names("intermediate_size is 515"));
  EXPECT_THAT(refused([](ModelConfig& m) { m.vocab_size = 1001; }), names("vocab_size is 1001"));
  EXPECT_THAT(
      refused([](ModelConfig& m) { m.dual_chunk = {.chunk_size = 1000, .local_size = 100}; }),
      names("chunk_size - local_size is 900"));
  // A shard has 252 of the intermediate size, which as a whole is a multiple of 8.
  ModelConfig narrow = fits;
  narrow.vocab_size = 1008;
  narrow.intermediate_size = 504;
  ASSERT_OK_AND_ASSIGN(const GroupShape pair,
                       GroupShape::Make({.tensor_parallel_size = 2}, narrow));
  EXPECT_OK(CheckCudaModel(narrow, alone));
  EXPECT_THAT(CheckCudaModel(narrow, pair),
              names("intermediate_size / --tensor-parallel-size 2 is 252"));
}

}  // namespace
}  // namespace longhaul::worker::rank
