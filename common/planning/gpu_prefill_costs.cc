#include "common/planning/gpu_prefill_costs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "common/logging.h"
#include "common/types.h"

namespace longhaul::planning {
namespace {

constexpr double kTera = 1e12;
constexpr int64_t kBytes = 2;           // of a bf16 value
constexpr int64_t kTermsBlocks = 1024;  // chunks of up to 262,144 tokens are looked up

}  // namespace

GpuPrefillCosts::GpuPrefillCosts(const ModelConfig& model, const GpuCosts& gpu,
                                 std::vector<int> layers, double max_step_seconds,
                                 std::optional<SparseSettings> sparse)
    : model_(model),
      gpu_(gpu),
      layers_(std::move(layers)),
      max_step_seconds_(max_step_seconds),
      sparse_(sparse) {
  CHECK(std::accumulate(layers_.begin(), layers_.end(), 0) == model.num_layers &&
        std::all_of(layers_.begin(), layers_.end(), [](int n) { return n > 0; }));
  CHECK(max_step_seconds > 0) << "max_step_seconds=" << max_step_seconds;
  by_blocks_.reserve(kTermsBlocks + 1);
  by_blocks_.emplace_back();
  for (int64_t blocks = 1; blocks <= kTermsBlocks; ++blocks) {
    by_blocks_.push_back(TermsOf(blocks * kKvBlockTokens));
  }
}

double GpuPrefillCosts::ProductSeconds(int64_t rows, int64_t inner, int64_t outer) const {
  const double weights = static_cast<double>(inner) * static_cast<double>(outer);
  const double rate =
      gpu_.gemm_tflops * kTera * gpu_.gemm_share_by_rows.At(static_cast<double>(rows));
  const double computing = 2 * static_cast<double>(rows) * weights / rate;
  return std::max(computing, weights * kBytes / gpu_.memory_bytes_per_second);
}

GpuPrefillCosts::LengthTerms GpuPrefillCosts::TermsOf(int64_t count) const {
  const int64_t hidden = model_.hidden_size;
  const int64_t query = static_cast<int64_t>(model_.num_heads) * model_.head_dim;
  const int64_t key_value = 2 * static_cast<int64_t>(model_.num_kv_heads) * model_.head_dim;
  const int64_t intermediate = model_.intermediate_size;
  const double rows = static_cast<double>(count);

  LengthTerms terms;
  terms.linear_seconds =
      ProductSeconds(count, hidden, query + key_value) + ProductSeconds(count, query, hidden);
  for (int64_t done = 0; done < count; done += gpu_.mlp_tile_rows) {
    const int64_t tile = std::min(gpu_.mlp_tile_rows, count - done);
    terms.linear_seconds +=
        ProductSeconds(tile, hidden, 2 * intermediate) + ProductSeconds(tile, intermediate, hidden);
  }
  // Two norms with their residual read and write the hidden state twice each; RoPE reads and writes
  // queries, keys and values; SiLU reads two halves and writes one.
  const int64_t elementwise = 8 * hidden + 2 * (query + key_value) + 3 * intermediate;
  terms.linear_seconds +=
      rows * static_cast<double>(elementwise * kBytes) / gpu_.memory_bytes_per_second;
  terms.flops_per_key = 4 * static_cast<double>(query) * rows;
  terms.causal_seconds =
      terms.flops_per_key * rows / 2 / (gpu_.causal_tflops_by_rows.At(rows) * kTera);
  const int64_t tile = gpu_.attention_tile_rows;
  const int64_t row_tiles = (count + tile - 1) / tile;
  terms.tiles = static_cast<double>(row_tiles * model_.num_heads);
  terms.tile_fill = rows / static_cast<double>(row_tiles * tile);
  // A row's values and its log-sum-exp in fp32, written and read.
  terms.seconds_per_range =
      rows * static_cast<double>((query + model_.num_heads) * 4 * 2) / gpu_.memory_bytes_per_second;
  return terms;
}

GpuPrefillCosts::LengthTerms GpuPrefillCosts::FindTerms(int64_t count) const {
  const bool known = count % kKvBlockTokens == 0 && count <= kTermsBlocks * kKvBlockTokens;
  return known ? by_blocks_[static_cast<size_t>(count / kKvBlockTokens)] : TermsOf(count);
}

double GpuPrefillCosts::HistorySeconds(const LengthTerms& terms, int64_t history) const {
  if (history == 0) return 0;
  const double keys = static_cast<double>(history);
  double work = terms.tiles;  // pieces of it, in whole ranges
  double partial_results = 0;
  if (history > gpu_.attention_range_keys && gpu_.attention_range_keys > 0) {
    const double range = static_cast<double>(gpu_.attention_range_keys);
    work *= keys / range;
    partial_results = std::ceil(keys / range) * terms.seconds_per_range;
  }
  const double slots = static_cast<double>(gpu_.multiprocessors);
  const double share =
      gpu_.attention_share_by_wave_fill.At(work / (std::ceil(work / slots) * slots));
  const double rate =
      gpu_.attention_tflops_by_keys.At(std::log(keys)) * kTera * share * terms.tile_fill;
  const double key_value = 2.0 * model_.num_kv_heads * model_.head_dim;
  // However few the rows, the keys and values are read.
  return std::max(keys * terms.flops_per_key / rate,
                  keys * key_value * kBytes / gpu_.memory_bytes_per_second) +
         partial_results;
}

double GpuPrefillCosts::SparseAttentionSeconds(const Chunk& chunk) const {
  const double query = static_cast<double>(model_.num_heads) * model_.head_dim;
  const double rows = static_cast<double>(chunk.count);
  const double mean_keys = static_cast<double>(chunk.begin) + rows / 2;
  // A block of 64 rows slides over each cluster of diagonals: 63 more keys than it has diagonals.
  const double cluster = static_cast<double>(gpu_.sparse_cluster_slashes);
  const double chosen = sparse_->columns + sparse_->slashes / cluster * (cluster + 63);
  const double attention = 4 * query * rows * std::min(mean_keys, chosen);
  // The last 64 queries of each piece see all keys, twice.
  const double pieces = std::ceil(rows / static_cast<double>(sparse_->piece_tokens));
  const double estimation = 2 * 2 * 64 * query * pieces * mean_keys;
  return attention / (gpu_.sparse_attention_tflops * kTera) +
         estimation / (gpu_.sparse_estimation_tflops * kTera);
}

double GpuPrefillCosts::LayerSeconds(const Chunk& chunk) const {
  if (sparse_ && chunk.end() > sparse_->begin) {
    const int64_t dense = std::max<int64_t>(sparse_->begin - chunk.begin, 0);
    double seconds = FindTerms(chunk.count).linear_seconds +
                     SparseAttentionSeconds({chunk.begin + dense, chunk.count - dense});
    if (dense > 0) {
      const LengthTerms terms = FindTerms(dense);
      seconds += terms.causal_seconds + HistorySeconds(terms, chunk.begin);
    }
    return seconds;
  }
  const LengthTerms terms = FindTerms(chunk.count);
  return terms.linear_seconds + terms.causal_seconds + HistorySeconds(terms, chunk.begin);
}

double GpuPrefillCosts::HeadSeconds() const {
  return static_cast<double>(kBytes) * model_.vocab_size * model_.hidden_size /
         gpu_.memory_bytes_per_second;
}

double GpuPrefillCosts::StageSeconds(int stage, const Chunk& chunk, bool last) const {
  const int layers = layers_[static_cast<size_t>(stage)];
  const double layer = LayerSeconds(chunk);
  const double overhead = gpu_.step_overhead_seconds;
  const double head = last && stage + 1 == num_stages() ? HeadSeconds() : 0;
  int units = 1;
  if (overhead + layers * layer > max_step_seconds_) {
    const int layers_a_unit = static_cast<int>((max_step_seconds_ - overhead) / layer);
    if (layers_a_unit < 1) return std::numeric_limits<double>::infinity();
    units = (layers + layers_a_unit - 1) / layers_a_unit;
  }
  return units * overhead + layers * layer + head;
}

double GpuPrefillCosts::SendSeconds(const Chunk& chunk) const {
  return static_cast<double>(chunk.count * model_.hidden_size * kBytes) /
         gpu_.link_bytes_per_second;
}

}  // namespace longhaul::planning
