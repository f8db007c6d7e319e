#include "cli/plan.h"

#include <iostream>

#include "cli/forecast_report.h"
#include "cli/prefill_forecast.h"

namespace longhaul::cli {
namespace {

constexpr int kUsage = 2;

}  // namespace

int Plan(const std::string& model_dir, const PlanConfig& config, const PlanTask& task) {
  if (!task.simulate) {
    std::cerr << "longhaul: plan has nothing to do: --simulate forecasts a prompt's prefill\n";
    return kUsage;
  }
  const absl::StatusOr<PrefillForecast> forecast = PrefillForecast::Make(model_dir, config);
  if (!forecast.ok()) {
    std::cerr << "longhaul: " << forecast.status().message() << "\n";
    return kUsage;
  }
  std::cout << (task.json ? ForecastJson(model_dir, *forecast) : ForecastText(model_dir, *forecast))
            << "\n";
  return 0;
}

}  // namespace longhaul::cli
