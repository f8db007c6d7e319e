#include "cli/forecast_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/number_text.h"

namespace longhaul::cli {
namespace {

using planning::ChunkPlan;

// "210 of 2,048 to 32,768 tokens": the rest at the prompt's end counts, but is no size of its own.
std::string ChunksText(const ChunkPlan& plan) {
  if (plan.chunks.size() == 1) return "1, the whole prompt";
  int64_t least = plan.chunks.front().count;
  int64_t most = least;
  for (size_t i = 0; i + 1 < plan.chunks.size(); ++i) {
    least = std::min(least, plan.chunks[i].count);
    most = std::max(most, plan.chunks[i].count);
  }
  if (least == most) return absl::StrCat(plan.chunks.size(), " of ", Grouped(most), " tokens");
  return absl::StrCat(plan.chunks.size(), " of ", Grouped(least), " to ", Grouped(most), " tokens");
}

void AppendRow(std::string& text, const char* name, const ChunkPlan& plan,
               const std::string& efficiency) {
  absl::StrAppendFormat(&text, "%-18s %9.2f  %10s  %s\n", name, plan.run.ttft_seconds, efficiency,
                        ChunksText(plan));
}

void AppendSharedRow(std::string& text, const std::string& name, const planning::SharedRun& run,
                     const ChunkPlan& alone) {
  absl::StrAppendFormat(&text, "%-34s %8.2f %8.2f  %17.2f  %+6.2f%%\n", name,
                        planning::Percentile(run.short_ttft_seconds, 0.5),
                        planning::Percentile(run.short_ttft_seconds, 0.99), run.long_ttft_seconds,
                        100 * (run.long_busy_seconds / alone.run.ttft_seconds - 1));
}

std::string SharedText(const SharedForecast& shared, const ChunkPlan& alone) {
  std::string text =
      absl::StrFormat("\nBeside %g short requests/s (1 to %d tokens in, %d out; %d answered):\n",
                      shared.load.requests_per_second, shared.load.most_prompt_tokens,
                      shared.load.output_tokens, shared.guarded.short_ttft_seconds.size());
  absl::StrAppendFormat(&text, "%-34s %8s %8s  %17s  %7s\n", "TTFT, s", "p50", "p99",
                        "the long prompt's", "busy");
  AppendSharedRow(
      text,
      absl::StrFormat("units of %g ms, alone %g ms", 1e3 * shared.limits.seconds_beside_others,
                      1e3 * shared.limits.seconds_alone),
      shared.guarded, alone);
  AppendSharedRow(text, "units of whole chunks", shared.unguarded, alone);
  return text;
}

nlohmann::ordered_json SharedJson(const planning::SharedRun& run, const ChunkPlan& alone) {
  return {{"answered", run.short_ttft_seconds.size()},
          {"ttft_p50_s", planning::Percentile(run.short_ttft_seconds, 0.5)},
          {"ttft_p99_s", planning::Percentile(run.short_ttft_seconds, 0.99)},
          {"long_ttft_s", run.long_ttft_seconds},
          {"long_busy_growth", run.long_busy_seconds / alone.run.ttft_seconds - 1}};
}

}  // namespace

std::string ForecastText(const std::string& model, const PrefillForecast& f) {
  const size_t num_stages = f.layers.size();
  std::string text =
      absl::StrCat(model, ": a prompt of ", Grouped(f.prompt_tokens), " tokens, ", f.attention,
                   " attention, on ", num_stages, " x ", f.gpu_description, "; simulated\n\n");
  absl::StrAppendFormat(&text, "%-18s %9s  %10s  %s\n", "", "TTFT, s", "efficiency", "chunks");
  AppendRow(text, "one card", f.one_stage, "");
  AppendRow(text, "dynamic chunks", f.dynamic, absl::StrFormat("%.4f", f.Efficiency(f.dynamic)));
  AppendRow(text, "best fixed chunk", f.best_fixed,
            absl::StrFormat("%.4f", f.Efficiency(f.best_fixed)));
  absl::StrAppendFormat(&text, "\n%5s  %6s  %9s  %6s\n", "stage", "layers", "busy, s", "bubble");
  for (size_t stage = 0; stage < num_stages; ++stage) {
    const planning::StageUse& use = f.dynamic.run.stages[stage];
    absl::StrAppendFormat(&text, "%5d  %6d  %9.2f  %5.2f%%\n", stage, f.layers[stage],
                          use.busy_seconds, 100 * use.bubble);
  }
  if (f.shared) absl::StrAppend(&text, SharedText(*f.shared, f.one_stage));
  absl::StrAppendFormat(
      &text,
      "\nEfficiency is the time on one card, uninterrupted, / (%d x TTFT). Dynamic chunks lose "
      "%.2f%%, the best fixed chunk %.2f%%.\n",
      num_stages, 100 * f.Loss(f.dynamic), 100 * f.Loss(f.best_fixed));
  if (f.EfficiencyBound() < 1) {
    absl::StrAppendFormat(&text, "Whole layers bound it at %.4f: the largest stage has %d of %d.\n",
                          f.EfficiencyBound(), *std::max_element(f.layers.begin(), f.layers.end()),
                          std::accumulate(f.layers.begin(), f.layers.end(), 0));
  }
  absl::StrAppend(&text, "Costs: table ", f.gpu, ", units of ",
                  f.max_step_ms > 0 ? absl::StrCat("at most ", f.max_step_ms, " ms") : "any time",
                  ", ", f.plans_in_flight, " plans in flight (docs/planning.md).");
  return text;
}

std::string ForecastJson(const std::string& model, const PrefillForecast& f) {
  const auto sizes_of = [](const ChunkPlan& plan) {
    std::vector<int64_t> sizes;
    for (const planning::Chunk& chunk : plan.chunks) sizes.push_back(chunk.count);
    return sizes;
  };
  nlohmann::ordered_json stages = nlohmann::ordered_json::array();
  for (size_t stage = 0; stage < f.layers.size(); ++stage) {
    const planning::StageUse& use = f.dynamic.run.stages[stage];
    stages.push_back(
        {{"layers", f.layers[stage]}, {"busy_s", use.busy_seconds}, {"bubble", use.bubble}});
  }
  nlohmann::ordered_json json = {
      {"model", model},
      {"gpu", f.gpu},
      {"pipeline_parallel_size", f.layers.size()},
      {"prompt_tokens", f.prompt_tokens},
      {"attention", f.attention},
      {"max_step_ms", f.max_step_ms},
      {"plans_in_flight", f.plans_in_flight},
      {"ttft_s", f.dynamic.run.ttft_seconds},
      {"ttft_best_fixed_s", f.best_fixed.run.ttft_seconds},
      {"ttft_one_card_s", f.one_stage.run.ttft_seconds},
      {"efficiency_dynamic", f.Efficiency(f.dynamic)},
      {"efficiency_best_fixed", f.Efficiency(f.best_fixed)},
      {"efficiency_bound", f.EfficiencyBound()},
      {"loss_dynamic", f.Loss(f.dynamic)},
      {"loss_best_fixed", f.Loss(f.best_fixed)},
      {"best_fixed_chunk", f.best_fixed.chunks.front().count},
      {"stages", stages},
      {"chunks", sizes_of(f.dynamic)},
  };
  if (f.shared) {
    json["short_requests"] = {{"per_second", f.shared->load.requests_per_second},
                              {"guarded", SharedJson(f.shared->guarded, f.one_stage)},
                              {"unguarded", SharedJson(f.shared->unguarded, f.one_stage)}};
  }
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace longhaul::cli
