#pragma once

#include <string>

#include "cli/prefill_forecast.h"

namespace longhaul::cli {

// For people: a few lines and two tables, without a line break at the end. `model` as it was typed.
std::string ForecastText(const std::string& model, const PrefillForecast& forecast);

// For programs: one JSON object; docs/planning.md lists its fields.
std::string ForecastJson(const std::string& model, const PrefillForecast& forecast);

}  // namespace longhaul::cli
