#include "cli/memory_report.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/number_text.h"
#include "common/types.h"

namespace longhaul::cli {
namespace {

double Gb(int64_t bytes) { return static_cast<double>(bytes) / 1e9; }

double ShareOf(const MemoryForecast& f, int64_t bytes) {
  return static_cast<double>(bytes) / static_cast<double>(f.limits.device_bytes);
}

}  // namespace

std::string MemoryText(const std::string& model, const MemoryForecast& f) {
  const planning::MemoryBudget& budget = f.tightest;
  std::string text =
      absl::StrCat(model, " on ", f.num_cards(), " x ", f.gpu_description, ": bf16, requests of ",
                   Grouped(f.limits.max_model_len), " tokens, steps of ",
                   Grouped(f.limits.max_num_batched_tokens), "\n");
  if (f.num_cards() > 1) {
    absl::StrAppend(&text, f.num_shards, " cards share each layer, ", f.layers.size(),
                    " stages: the card with most to hold\n");
  }
  absl::StrAppendFormat(&text, "\n%-44s %8s  %s\n", "", "GB", "of what is free");
  const auto row = [&](const std::string& name, int64_t bytes) {
    absl::StrAppendFormat(&text, "%-44s %8.2f  %14.1f%%\n", name, Gb(bytes),
                          100 * ShareOf(f, bytes));
  };
  row("weights", budget.weights);
  row(absl::StrCat("KV of ", Grouped(f.limits.max_model_len), " tokens"),
      budget.longest_blocks * budget.kv_block);
  row(absl::StrCat("KV of short requests, ", Grouped(planning::kShortRequestTokens), " tokens"),
      budget.short_blocks * budget.kv_block);
  row("activations", budget.activations);
  row("logits and sampling", budget.logits);
  row("workspaces", budget.workspaces);
  row("CUDA kernels, whole pages", budget.runtime);
  row("needed", budget.Needed());
  row(absl::StrFormat("allowed (--gpu-memory-utilization %g)", f.limits.utilization),
      budget.usable);
  row(absl::StrFormat("free (card %.2f, CUDA runtime %.2f)", Gb(f.card_bytes),
                      Gb(f.card_bytes - f.limits.device_bytes)),
      f.limits.device_bytes);
  absl::StrAppend(&text, "\nThe KV cache can have ", Grouped(budget.KvBlocks()),
                  " blocks: ", Grouped(budget.KvBlocks() * kKvBlockTokens), " tokens.\n");
  const double total = Gb(budget.Needed()) * f.num_cards();
  if (f.published_bytes > 0) {
    absl::StrAppendFormat(&text,
                          "Published requirement for 1M tokens: %.0f GB of cards. Here: %.1f GB.\n",
                          Gb(f.published_bytes), total);
  }
  if (f.ttft_seconds.has_value()) {
    absl::StrAppendFormat(
        &text,
        "Expected time to the first token of a prompt of %s tokens, %s attention: %.1f s "
        "(simulated with table %s, docs/planning.md).",
        Grouped(f.prompt_tokens), f.attention, *f.ttft_seconds, f.gpu);
  } else {
    absl::StrAppend(&text, "It does not fit.");
  }
  return text;
}

std::string MemoryJson(const std::string& model, const MemoryForecast& f) {
  const planning::MemoryBudget& budget = f.tightest;
  nlohmann::ordered_json json = {
      {"model", model},
      {"gpu", f.gpu},
      {"cards", f.num_cards()},
      {"tensor_parallel_size", f.num_shards},
      {"pipeline_parallel_size", f.layers.size()},
      {"layers", f.layers},
      {"max_model_len", f.limits.max_model_len},
      {"max_num_batched_tokens", f.limits.max_num_batched_tokens},
      {"max_num_seqs", f.limits.max_num_seqs},
      {"gpu_memory_utilization", f.limits.utilization},
      {"fits", f.fits.ok()},
      {"card_bytes", f.card_bytes},
      {"free_bytes", f.limits.device_bytes},
      {"allowed_bytes", budget.usable},
      {"needed_bytes", budget.Needed()},
      {"needed_share", ShareOf(f, budget.Needed())},
      {"weights_bytes", budget.weights},
      {"kv_longest_bytes", budget.longest_blocks * budget.kv_block},
      {"kv_short_bytes", budget.short_blocks * budget.kv_block},
      {"activations_bytes", budget.activations},
      {"logits_bytes", budget.logits},
      {"workspaces_bytes", budget.workspaces},
      {"runtime_bytes", budget.runtime},
      {"kv_blocks", budget.KvBlocks()},
      {"kv_tokens", budget.KvBlocks() * kKvBlockTokens},
      {"published_bytes", nullptr},
      {"prompt_tokens", f.prompt_tokens},
      {"attention", f.attention},
      {"ttft_s", nullptr},
  };
  if (f.published_bytes > 0) json["published_bytes"] = f.published_bytes;
  if (f.ttft_seconds.has_value()) json["ttft_s"] = *f.ttft_seconds;
  if (!f.fits.ok()) json["message"] = std::string(f.fits.message());
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace longhaul::cli
