#include "common/planning/gpu_costs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "common/planning/gpu_tables.h"

namespace longhaul::planning {
namespace {

using testing::HasSubstr;

std::string TableWith(const std::string& from, const std::string& to) {
  std::string table(GpuTables().at(0));
  const size_t at = table.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return table.replace(at, from.size(), to);
}

TEST(GpuCosts, EveryTableThatIsCompiledInReadsAndIsFoundByItsName) {
  ASSERT_FALSE(GpuTables().empty());
  for (const std::string_view table : GpuTables()) {
    const absl::StatusOr<GpuCosts> costs = GpuCosts::Parse(table);
    ASSERT_TRUE(costs.ok()) << costs.status();
    const absl::StatusOr<GpuCosts> found = GpuCosts::Find(costs->name);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->description, costs->description);
  }
}

TEST(GpuCosts, TheH100HasTheFiguresThatWereMeasured) {
  const GpuCosts costs = GpuCosts::Find("h100-80g").value();
  EXPECT_EQ(costs.step_overhead_seconds, 0.005);
  EXPECT_EQ(costs.link_bytes_per_second, 50e9);
  EXPECT_EQ(costs.gemm_tflops * costs.gemm_share_by_rows.At(32768), 754);
  EXPECT_EQ(costs.attention_tflops_by_keys.At(std::log(131072)), 639);
  EXPECT_EQ(costs.attention_tflops_by_keys.At(std::log(1048576)), 599);
  EXPECT_EQ(costs.causal_tflops_by_rows.At(131072), 601);
  EXPECT_EQ(costs.memory_bytes, 84'930'000'000);
}

TEST(GpuCosts, AFaultyTableIsRefusedByTheNameOfItsField) {
  const struct {
    const char* from;
    const char* to;
    const char* message;
  } cases[] = {
      {"gemm_tflops:", "gemm_teraflops:", "gemm_tflops is missing"},
      {"name:", "colour: red\nname:", "unknown key colour"},
      {"gemm_tflops: 754", "gemm_tflops: 0", "gemm_tflops is 0, must be above 0"},
      {"gemm_tflops: 754", "gemm_tflops: fast", "bad conversion"},
      {"multiprocessors: 132", "multiprocessors: 1.5", "multiprocessors is 1.5, must be a whole"},
      {"[256, 0.819]", "[2560, 0.819]", "must ascend"},
      {"[16384, 1.0]", "[16384, 0]", "must end with a rate above 0"},
      {"[131072, 639]", "[0, 639]", "attention_tflops_by_keys has [0, 639]"},
      {"description", "{", "GPU table"},
  };
  for (const auto& c : cases) {
    const absl::StatusOr<GpuCosts> costs = GpuCosts::Parse(TableWith(c.from, c.to));
    EXPECT_EQ(costs.status().code(), absl::StatusCode::kInvalidArgument) << c.to;
    EXPECT_THAT(std::string(costs.status().message()), HasSubstr(c.message)) << c.to;
  }
  EXPECT_THAT(std::string(GpuCosts::Parse("[1]").status().message()), HasSubstr("mapping"));
}

TEST(GpuSet, IsANameAndACount) {
  const absl::StatusOr<GpuSet> gpus = GpuSet::Parse("h100-80g:4");
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  EXPECT_EQ(gpus->costs.name, "h100-80g");
  EXPECT_EQ(gpus->count, 4);
}

TEST(GpuSet, AnUnknownNameListsTheKnownOnes) {
  const absl::Status status = GpuSet::Parse("b300:4").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(),
            "no cost table for GPU \"b300\"; there is one for h100-80g, h200-141g");
}

TEST(GpuSet, AnythingElseIsRefused) {
  for (const char* text : {"", "h100-80g", ":4", "h100-80g:", "h100-80g:0", "h100-80g:-1",
                           "h100-80g:4x", "h100-80g:1025", "h100-80g:99999999999"}) {
    EXPECT_EQ(GpuSet::Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace longhaul::planning
