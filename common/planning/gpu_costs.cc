#include "common/planning/gpu_costs.h"

#include <yaml-cpp/yaml.h>

#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/planning/gpu_tables.h"
#include "common/status_macros.h"

namespace longhaul::planning {
namespace {

constexpr double kLargest = 1e18;

// The fields of one table, each of which must be read once.
class Table {
 public:
  explicit Table(const YAML::Node& root) : root_(root) {}

  std::string Text(const std::string& key) { return Take(key).as<std::string>(); }

  // Above 0.
  absl::StatusOr<double> Number(const std::string& key) {
    const double value = Take(key).as<double>();
    if (!(value > 0 && value < kLargest)) {
      return absl::InvalidArgumentError(absl::StrCat(key, " is ", value, ", must be above 0"));
    }
    return value;
  }
  absl::StatusOr<int64_t> Count(const std::string& key, double least = 1) {
    const double value = Take(key).as<double>();
    if (!(value >= least && value < kLargest && value == std::floor(value))) {
      return absl::InvalidArgumentError(
          absl::StrCat(key, " is ", value, ", must be a whole number from ", least));
    }
    return static_cast<int64_t>(value);
  }
  // Pairs, the first of which ascend; none is negative, and the last is a rate above 0.
  absl::StatusOr<Polyline> Curve(const std::string& key) {
    auto points = Take(key).as<std::vector<std::pair<double, double>>>();
    for (size_t i = 0; i < points.size(); ++i) {
      const auto& [x, y] = points[i];
      const double above = i == 0 ? -1 : points[i - 1].first;
      if (!(x > above && x >= 0 && x < kLargest && y >= 0 && y < kLargest)) {
        return absl::InvalidArgumentError(
            absl::StrCat(key, " has [", x, ", ", y, "] behind ", above,
                         ": the first numbers must ascend and none be negative"));
      }
    }
    if (points.empty() || points.back().second == 0) {
      return absl::InvalidArgumentError(absl::StrCat(key, " must end with a rate above 0"));
    }
    return Polyline(std::move(points));
  }

  absl::Status CheckAllRead() const {
    for (const auto& entry : root_) {
      if (!read_.contains(entry.first.Scalar())) {
        return absl::InvalidArgumentError(absl::StrCat("unknown key ", entry.first.Scalar()));
      }
    }
    return absl::OkStatus();
  }

 private:
  // An undefined node, if the key is missing, throws when it is converted.
  YAML::Node Take(const std::string& key) {
    read_.insert(key);
    const YAML::Node& root = root_;
    YAML::Node value = root[key];
    if (!value) throw YAML::Exception(root.Mark(), absl::StrCat(key, " is missing"));
    return value;
  }

  YAML::Node root_;
  std::set<std::string> read_;
};

absl::StatusOr<GpuCosts> Read(Table& table) {
  GpuCosts costs;
  costs.name = table.Text("name");
  costs.description = table.Text("description");
  ASSIGN_OR_RETURN(costs.step_overhead_seconds, table.Number("step_overhead_seconds"));
  ASSIGN_OR_RETURN(costs.link_bytes_per_second, table.Number("link_bytes_per_second"));
  ASSIGN_OR_RETURN(costs.memory_bytes_per_second, table.Number("memory_bytes_per_second"));
  ASSIGN_OR_RETURN(costs.memory_bytes, table.Count("memory_bytes"));
  ASSIGN_OR_RETURN(costs.all_reduce_bytes_per_second, table.Number("all_reduce_bytes_per_second"));
  ASSIGN_OR_RETURN(costs.gemm_tflops, table.Number("gemm_tflops"));
  ASSIGN_OR_RETURN(costs.gemm_share_by_rows, table.Curve("gemm_share_by_rows"));
  ASSIGN_OR_RETURN(costs.mlp_tile_rows, table.Count("mlp_tile_rows"));
  ASSIGN_OR_RETURN(const Polyline by_keys, table.Curve("attention_tflops_by_keys"));
  std::vector<std::pair<double, double>> by_log_keys = by_keys.points();
  for (auto& [keys, rate] : by_log_keys) {
    if (keys < 1 || rate == 0) {
      return absl::InvalidArgumentError(absl::StrCat("attention_tflops_by_keys has [", keys, ", ",
                                                     rate,
                                                     "], both must be 1 or "
                                                     "more"));
    }
    keys = std::log(keys);
  }
  costs.attention_tflops_by_keys = Polyline(std::move(by_log_keys));
  ASSIGN_OR_RETURN(costs.multiprocessors, table.Count("multiprocessors"));
  ASSIGN_OR_RETURN(costs.attention_tile_rows, table.Count("attention_tile_rows"));
  ASSIGN_OR_RETURN(costs.attention_share_by_wave_fill, table.Curve("attention_share_by_wave_fill"));
  ASSIGN_OR_RETURN(costs.attention_range_keys, table.Count("attention_range_keys", 0));
  ASSIGN_OR_RETURN(costs.causal_tflops_by_rows, table.Curve("causal_tflops_by_rows"));
  ASSIGN_OR_RETURN(costs.sparse_attention_tflops, table.Number("sparse_attention_tflops"));
  ASSIGN_OR_RETURN(costs.sparse_cluster_slashes, table.Count("sparse_cluster_slashes"));
  ASSIGN_OR_RETURN(costs.sparse_estimation_tflops, table.Number("sparse_estimation_tflops"));
  RETURN_IF_ERROR(table.CheckAllRead());
  return costs;
}

}  // namespace

absl::StatusOr<GpuCosts> GpuCosts::Parse(std::string_view yaml) {
  try {
    const YAML::Node root = YAML::Load(std::string(yaml));
    if (!root.IsMap()) return absl::InvalidArgumentError("GPU table: must be a mapping");
    Table table(root);
    absl::StatusOr<GpuCosts> costs = Read(table);
    RETURN_IF_ERROR(costs.status()) << "GPU table";
    return costs;
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("GPU table: ", error.what()));
  }
}

absl::StatusOr<GpuCosts> GpuCosts::Find(std::string_view name) {
  std::vector<std::string> known;
  for (const std::string_view table : GpuTables()) {
    ASSIGN_OR_RETURN(GpuCosts costs, Parse(table));
    if (costs.name == name) return costs;
    known.push_back(costs.name);
  }
  return absl::NotFoundError(absl::StrCat("no cost table for GPU \"", std::string(name),
                                          "\"; there is one for ", absl::StrJoin(known, ", ")));
}

absl::StatusOr<GpuSet> GpuSet::Parse(std::string_view text) {
  const size_t colon = text.find(':');
  int count = 0;
  if (colon == std::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(std::string(text.substr(colon + 1)), &count) || count < 1 || count > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("GPUs are \"", std::string(text),
                     "\", must be NAME:COUNT with a count from 1 to 1024, such as h100-80g:4"));
  }
  ASSIGN_OR_RETURN(GpuCosts costs, GpuCosts::Find(text.substr(0, colon)));
  return GpuSet{.costs = std::move(costs), .count = count};
}

}  // namespace longhaul::planning
