#include "worker/rank/rank_config.h"

#include "tests/testing/status_matchers.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

TEST(RankConfig, DefaultsAreWithinTheirLimits) {
  RankConfig config;
  EXPECT_OK(CheckFields(FieldsOf(config)));
}

TEST(RankConfig, FlagsHaveTheNamesThatLeadersUse) {
  RankConfig config;
  const ConfigFields fields = FieldsOf(config);
  for (const auto& [name, value] : {std::pair{"model", "m"},
                                    {"control", "unix:/x"},
                                    {"rank", "3"},
                                    {"tensor-parallel-size", "2"},
                                    {"pipeline-parallel-size", "2"},
                                    {"layer-split", "3,1"},
                                    {"ranks-on-host", "8"},
                                    {"comm-host", "10.0.0.1"},
                                    {"comm-interface", "eth1"},
                                    {"load-format", "dummy"},
                                    {"device", "cpu"},
                                    {"cuda-device", "3"},
                                    {"gpu-memory-utilization", "0.8"},
                                    {"max-model-len", "1010000"},
                                    {"max-num-batched-tokens", "16384"},
                                    {"max-num-seqs", "128"},
                                    {"kv-cache-dtype", "bf16"},
                                    {"kv-cache-gib", "0.5"},
                                    {"kv-offload-gib", "2.5"},
                                    {"kv-offload-dir", "/x"},
                                    {"kv-offload-disk-gib", "100"},
                                    {"attention-temperature", "request"},
                                    {"dual-chunk-attention", "off"},
                                    {"threads", "2"},
                                    {"metrics-port", "-1"}}) {
    EXPECT_OK(SetField(fields, name, value)) << name;
  }
  EXPECT_OK(CheckFields(fields));
  EXPECT_EQ(config.rank, 3);
  EXPECT_EQ(config.kv_cache_gib, 0.5);
  EXPECT_EQ(config.kv_offload_disk_gib, 100);
  EXPECT_EQ(config.dual_chunk_attention, "off");
}

TEST(RankConfig, RefusesUnknownDevicesAndTypes) {
  RankConfig config;
  config.device = "abacus";
  EXPECT_THAT(CheckFields(FieldsOf(config)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("device")));
  config = {};
  config.kv_cache_dtype = "fp8";
  EXPECT_THAT(CheckFields(FieldsOf(config)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv-cache-dtype")));
}

}  // namespace
}  // namespace longhaul::worker::rank
