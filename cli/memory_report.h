#pragma once

#include <string>

#include "cli/memory_forecast.h"

namespace longhaul::cli {

// For people: a table and a few lines, without a line break at the end. `model` as it was typed.
std::string MemoryText(const std::string& model, const MemoryForecast& forecast);

// For programs: one JSON object; docs/planning.md lists its fields.
std::string MemoryJson(const std::string& model, const MemoryForecast& forecast);

}  // namespace longhaul::cli
