// The rates in gpus/h200-141g.yaml are those of the measurement that it names.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/planning/gpu_costs.h"
#include "tests/testing/paths.h"

namespace longhaul::planning {
namespace {

using nlohmann::json;

class H200TableTest : public ::testing::Test {
 protected:
  H200TableTest()
      : costs_(GpuCosts::Find("h200-141g").value()),
        rates_(json::parse(std::ifstream(testing::SourcePath("tests/data/gpu_rates_h200.json")))) {}

  const GpuCosts costs_;
  const json rates_;
};

TEST_F(H200TableTest, ProductsOfManyRowsHaveTheRateMeasured) {
  double tera = 0;
  double seconds = 0;
  for (const json& r : rates_["gemm"]) {
    if (r["rows"] < 16'384) continue;
    tera += r["tflops"].get<double>() * r["seconds"].get<double>();
    seconds += r["seconds"].get<double>();
  }
  ASSERT_GT(seconds, 0);
  EXPECT_NEAR(tera / seconds / costs_.gemm_tflops, 1, 0.01);
}

TEST_F(H200TableTest, AttentionOverManyKeysHasTheRatesMeasured) {
  for (const int64_t keys : {131'072, 524'288, 1'048'576}) {
    double sum = 0;
    int count = 0;
    for (const json& r : rates_["attention"]) {
      if (r["causal"] || r["keys"] != keys || r["rows"] < 16'384) continue;
      sum += r["tflops"].get<double>();
      ++count;
    }
    ASSERT_EQ(count, 4) << keys;
    const double in_table = costs_.attention_tflops_by_keys.At(std::log(static_cast<double>(keys)));
    EXPECT_NEAR(sum / count / in_table, 1, 0.01) << keys;
  }
}

TEST_F(H200TableTest, CausalAttentionHasTheRatesMeasured) {
  for (const int64_t rows : {4096, 16'384}) {
    double sum = 0;
    int found = 0;
    for (const json& r : rates_["attention"]) {
      if (!r["causal"] || r["rows"] != rows) continue;
      sum += r["tflops"].get<double>();
      ++found;
    }
    ASSERT_EQ(found, 2) << rows;
    const double in_table = costs_.causal_tflops_by_rows.At(static_cast<double>(rows));
    EXPECT_NEAR(sum / found / in_table, 1, 0.01) << rows;
  }
}

}  // namespace
}  // namespace longhaul::planning
