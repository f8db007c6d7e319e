// The shares in gpus/h100-80g.yaml are those of the measurement that it names.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "common/planning/gpu_costs.h"
#include "tests/testing/paths.h"

namespace longhaul::planning {
namespace {

using nlohmann::json;

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

class H100TableTest : public ::testing::Test {
 protected:
  H100TableTest()
      : costs_(GpuCosts::Find("h100-80g").value()),
        rates_(json::parse(std::ifstream(testing::SourcePath("tests/data/gpu_rates_h200.json")))) {}

  // How full the waves are with so many pieces of work.
  double FillOf(int64_t pieces) const {
    const int64_t slots = costs_.multiprocessors;
    return static_cast<double>(pieces) / static_cast<double>((pieces + slots - 1) / slots * slots);
  }
  int64_t TilesOf(const json& record) const {
    const int64_t tile = costs_.attention_tile_rows;
    const int64_t heads = record["model"] == "7b" ? 28 : 40;
    return (record["rows"].get<int64_t>() + tile - 1) / tile * heads;
  }

  // Mean rates of attention over 16,384 keys and more, by fill and shape.
  std::map<std::pair<double, std::string>, double> AttentionRates() const {
    std::map<std::pair<double, std::string>, std::vector<double>> rates;
    for (const json& r : rates_["attention"]) {
      if (r["causal"] || r["keys"] < 16384) continue;
      const std::string shape = r["model"].get<std::string>() + " " + r["rows"].dump();
      rates[{FillOf(TilesOf(r)), shape}].push_back(r["tflops"]);
    }
    std::map<std::pair<double, std::string>, double> means;
    for (const auto& [shape, values] : rates) means[shape] = Mean(values);
    return means;
  }
  double LargeAttentionRate() const {
    std::vector<double> rates;
    for (const auto& [shape, rate] : AttentionRates()) {
      if (shape.first > 0.965) rates.push_back(rate);
    }
    return Mean(rates);
  }

  const GpuCosts costs_;
  const json rates_;
};

TEST_F(H100TableTest, ProductsHaveTheSharesMeasured) {
  // Of all four products of a layer together, the mean of both models.
  std::map<int64_t, std::map<std::string, std::pair<double, double>>> sums;  // operations, seconds
  for (const json& r : rates_["gemm"]) {
    auto& [tera, seconds] = sums[r["rows"].get<int64_t>()][r["model"]];
    tera += r["tflops"].get<double>() * r["seconds"].get<double>();
    seconds += r["seconds"].get<double>();
  }
  const auto rate_at = [&sums](int64_t rows) {
    std::vector<double> rates;
    for (const auto& [model, sum] : sums.at(rows)) rates.push_back(sum.first / sum.second);
    return Mean(rates);
  };
  const double large = (rate_at(16384) + rate_at(32768)) / 2;
  for (const auto& [rows, sum] : sums) {
    if (rows < 256) continue;
    EXPECT_NEAR(rate_at(rows) / large, costs_.gemm_share_by_rows.At(static_cast<double>(rows)),
                0.012)
        << "rows=" << rows;
  }
}

TEST_F(H100TableTest, AttentionHasTheSharesMeasuredByTheFillOfItsWaves) {
  const std::map<std::pair<double, std::string>, double> rates = AttentionRates();
  EXPECT_EQ(rates.size(), 26U);
  for (const auto& [shape, rate] : rates) {
    EXPECT_NEAR(rate / LargeAttentionRate(), costs_.attention_share_by_wave_fill.At(shape.first),
                0.02)
        << shape.second << " rows, fill " << shape.first;
  }
}

TEST_F(H100TableTest, RangesOfKeysFillTheWaves) {
  int num_records = 0;
  for (const json& r : rates_["split"]) {
    if (r["keys_of_range"] != costs_.attention_range_keys || r["rows"] < 1024) continue;
    ++num_records;
    const double share = r["tflops"].get<double>() / LargeAttentionRate();
    EXPECT_GE(share, 0.975) << r.dump();
    const int64_t ranges = r["keys"].get<int64_t>() / r["keys_of_range"].get<int64_t>();
    const double in_table = costs_.attention_share_by_wave_fill.At(FillOf(TilesOf(r) * ranges));
    EXPECT_NEAR(share, in_table, 0.03) << r.dump();
  }
  EXPECT_EQ(num_records, 32);
}

TEST_F(H100TableTest, CausalAttentionHasTheRatesMeasured) {
  std::map<int64_t, std::vector<double>> rates;
  for (const json& r : rates_["attention"]) {
    if (r["causal"]) rates[r["rows"].get<int64_t>()].push_back(r["tflops"]);
  }
  EXPECT_EQ(rates.size(), 2U);
  for (const auto& [rows, values] : rates) {
    EXPECT_NEAR(Mean(values) / costs_.causal_tflops_by_rows.At(static_cast<double>(rows)), 1, 0.01);
  }
}

}  // namespace
}  // namespace longhaul::planning
