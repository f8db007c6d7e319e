#include "cli/plan.h"

#include <iostream>

#include "cli/forecast_report.h"
#include "cli/memory_forecast.h"
#include "cli/memory_report.h"
#include "cli/prefill_forecast.h"

namespace longhaul::cli {
namespace {

constexpr int kUsage = 2;

int Fail(const absl::Status& status) {
  std::cerr << "longhaul: " << status.message() << "\n";
  return kUsage;
}

int Simulate(const std::string& model_dir, const PlanConfig& config, bool json) {
  const absl::StatusOr<PrefillForecast> forecast = PrefillForecast::Make(model_dir, config);
  if (!forecast.ok()) return Fail(forecast.status());
  std::cout << (json ? ForecastJson(model_dir, *forecast) : ForecastText(model_dir, *forecast))
            << "\n";
  return 0;
}

}  // namespace

int Plan(const std::string& model_dir, const PlanConfig& config, const PlanTask& task) {
  if (task.simulate) return Simulate(model_dir, config, task.json);
  const absl::StatusOr<MemoryForecast> forecast = MemoryForecast::Make(model_dir, config);
  if (!forecast.ok()) return Fail(forecast.status());
  std::cout << (task.json ? MemoryJson(model_dir, *forecast) : MemoryText(model_dir, *forecast))
            << std::endl;  // before the message, where both are on a terminal
  return forecast->fits.ok() ? 0 : Fail(forecast->fits);
}

}  // namespace longhaul::cli
