#include "common/planning/memory_budget.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/logging.h"
#include "common/types.h"

namespace longhaul::planning {
namespace {

constexpr int64_t kFloat = 4;
// Device memory comes in pages; what is smaller shares one.
constexpr int64_t kPageBytes = int64_t{2} << 20;
// Rows that the MLP takes at a time (Qwen2::kMlpRows).
constexpr int64_t kMlpRows = 8192;
// Units on a rank that have a residual stream and a plan of their rows: the one that runs, the one
// before, whose logits may be asked for, and one that was cut between layers; a second one while
// the first, whose sequence has ended, is not yet dropped.
constexpr int64_t kUnits = 4;
// Logits of a prompt are computed in tiles (PromptScorer::kMaxLogitsBytes).
constexpr int64_t kLogitsTileBytes = int64_t{128} << 20;
// Sampling takes so many rows at a time; for each, scores in chunks of 4,096 tokens, 20 top ones
// and sums of a chunk, and a histogram of 2,048 bins.
constexpr int64_t kSampledRows = 64;
constexpr int64_t kSampledChunk = 4096;
constexpr int64_t kSampledChunkBytes = kSampledChunk * kFloat + 256;
constexpr int64_t kHistogramBytes = 2048 * 12 + 64;
// Attention of a decoded row is cut into at most so many splits, of two blocks or more.
constexpr int64_t kRowSplits = 66;
// Of cuBLASLt (kGemmCudaWorkspaceBytes).
constexpr int64_t kGemmWorkspaceBytes = int64_t{32} << 20;
// What a communicator holds. An assumption.
constexpr int64_t kCommunicatorBytes = 400'000'000;
// Buffers that grow as they are asked for more at least double.
constexpr int64_t kGrowth = 2;

constexpr double kGb = 1e9;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t PowerOfTwo(int64_t n) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n)));
}

// Adds up allocations, and what each loses to whole pages.
class Allocations {
 public:
  // `count` allocations; returns their bytes.
  int64_t Add(int64_t bytes, int64_t count = 1) {
    if (bytes >= kPageBytes / 2) {
      lost_ += count * (CeilDiv(bytes, kPageBytes) * kPageBytes - bytes);
    }
    return count * bytes;
  }
  int64_t lost() const { return lost_; }

 private:
  int64_t lost_ = 2 * kPageBytes;  // to pages of small allocations
};

// Sizes of a shard of the model.
struct Shard {
  Shard(const ModelConfig& model, const RankPart& part)
      : hidden(model.hidden_size),
        heads(model.num_heads / part.num_shards),
        kv_heads(model.num_kv_heads / part.num_shards),
        query_cols(heads * model.head_dim),
        qkv_cols(query_cols + 2 * kv_heads * model.head_dim),
        intermediate(model.intermediate_size / part.num_shards),
        vocabulary(int64_t{model.vocab_size} * (part.shard + 1) / part.num_shards -
                   int64_t{model.vocab_size} * part.shard / part.num_shards) {}

  const int64_t hidden;
  const int64_t heads;
  const int64_t kv_heads;
  const int64_t query_cols;
  const int64_t qkv_cols;
  const int64_t intermediate;
  const int64_t vocabulary;
};

int64_t WeightBytes(const ModelConfig& model, const RankPart& part, const Shard& shard,
                    int64_t element, Allocations& memory) {
  int64_t bytes = 0;
  const auto add = [&](int64_t rows, int64_t cols, int64_t count) {
    bytes += memory.Add(rows * cols * element, count);
  };
  add(shard.qkv_cols, shard.hidden, part.num_layers);
  add(shard.qkv_cols, 1, part.num_layers);
  add(shard.hidden, shard.query_cols, part.num_layers);
  add(2 * shard.intermediate, shard.hidden, part.num_layers);
  add(shard.hidden, shard.intermediate, part.num_layers);
  // A shard's embedding has a row of zeros, for the ids of others.
  if (part.has_embedding) add(shard.vocabulary + (part.num_shards > 1 ? 1 : 0), shard.hidden, 1);
  if (part.has_head && !(part.has_embedding && model.tie_word_embeddings)) {
    add(shard.vocabulary, shard.hidden, 1);
  }
  const int64_t norms = 2 * int64_t{part.num_layers} + (part.has_head ? 1 : 0);
  return bytes + memory.Add(shard.hidden * kFloat, norms);
}

// Regions of Dual Chunk Attention that a request of this length has, of three.
int64_t NumRegions(const ModelConfig& model, int64_t max_model_len) {
  if (!model.dual_chunk.has_value()) return 1;
  return std::clamp<int64_t>(CeilDiv(max_model_len, model.dual_chunk->chunk_len()), 1, 3);
}

// Arrays of a unit's rows: ids, temperatures, positions, slots, counts; block tables; tiles of
// attention. Each has room for a power of two.
int64_t RowArrayBytes(const MemoryLimits& limits) {
  const int64_t rows = PowerOfTwo(limits.max_num_batched_tokens);
  const int64_t blocks = CeilDiv(limits.max_model_len, kKvBlockTokens);
  const int64_t tiles = limits.max_num_batched_tokens / 128 + 2 * limits.max_num_seqs;
  return rows * 28 + PowerOfTwo(limits.max_num_seqs * blocks) * 4 + PowerOfTwo(tiles) * 32 +
         PowerOfTwo(limits.max_num_seqs * kRowSplits) * 48;
}

int64_t ActivationBytes(const ModelConfig& model, const Shard& shard, const MemoryLimits& limits,
                        Allocations& memory) {
  const int64_t rows = limits.max_num_batched_tokens;
  // A layer's: norm, q k v, queries for three regions, attention's output; the MLP's.
  const int64_t layer = rows * (shard.hidden + shard.qkv_cols + 4 * shard.query_cols) +
                        std::min(rows, kMlpRows) * 3 * shard.intermediate;
  const int64_t cos_and_sin = PowerOfTwo(rows) * model.head_dim * kFloat;
  return memory.Add(layer * limits.element_bytes) +
         memory.Add(rows * shard.hidden * limits.element_bytes, kUnits) +
         memory.Add(cos_and_sin, kUnits * NumRegions(model, limits.max_model_len)) +
         memory.Add(kGrowth * RowArrayBytes(limits), kUnits);
}

int64_t LogitsBytes(const ModelConfig& model, const RankPart& part, const Shard& shard,
                    const MemoryLimits& limits, Allocations& memory) {
  if (!part.has_head) return 0;
  const int64_t vocabulary = model.vocab_size;
  const int64_t rows =
      std::max({limits.max_num_seqs, kLogitsTileBytes / (vocabulary * kFloat), int64_t{1}});
  int64_t row = shard.hidden * limits.element_bytes;
  if (part.num_shards > 1) row += shard.vocabulary * kFloat;
  if (part.shard != 0) return memory.Add(rows * row);
  row += vocabulary * kFloat;
  if (part.num_shards > 1) row += (vocabulary - shard.vocabulary) * kFloat;  // other shards' parts
  const int64_t scores = CeilDiv(vocabulary, kSampledChunk) * kSampledChunkBytes + kHistogramBytes;
  // A sequence's bitmap of ids seen, and counts of those generated.
  const int64_t state = vocabulary / 8 + vocabulary * kFloat;
  return memory.Add(rows * row) +
         memory.Add(kGrowth * std::min(limits.max_num_seqs, kSampledRows) * scores) +
         memory.Add(kGrowth * limits.max_num_seqs * state);
}

int64_t WorkspaceBytes(const ModelConfig& model, const RankPart& part, const Shard& shard,
                       const MemoryLimits& limits, Allocations& memory) {
  const int64_t splits =
      std::min(kRowSplits, CeilDiv(CeilDiv(limits.max_model_len, kKvBlockTokens), 2));
  const int64_t decode =
      limits.max_num_seqs * splits * shard.heads * (int64_t{model.head_dim} + 2) * kFloat;
  const int64_t communicators = (part.num_shards > 1 ? 1 : 0) + (part.num_stages > 1 ? 1 : 0);
  return memory.Add(kGemmWorkspaceBytes) + memory.Add(kGrowth * decode) +
         memory.Add(kCommunicatorBytes, communicators);
}

// The largest of begin, begin + step, ... below `end` that fits, if begin does: fitting ends once.
std::optional<int64_t> LargestThatFits(int64_t begin, int64_t end, int64_t step,
                                       const std::function<bool(int64_t)>& fits) {
  int64_t low = -1;  // fits
  int64_t high = std::max<int64_t>(CeilDiv(end - begin, step), 0);
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(begin + middle * step) ? low : high) = middle;
  }
  if (low < 0) return std::nullopt;
  return begin + low * step;
}

std::string Setting(const char* name, const std::optional<std::string>& value) {
  return absl::StrCat(name, value.has_value() ? " " + *value : " (no value is)");
}

}  // namespace

int64_t MemoryBudget::KvBlocks() const { return std::max<int64_t>(usable - Fixed(), 0) / kv_block; }

MemoryBudget BudgetMemory(const ModelConfig& model, const RankPart& part,
                          const MemoryLimits& limits) {
  CHECK(part.num_layers > 0 && part.shard >= 0 && part.shard < part.num_shards &&
        part.num_stages > 0 && model.num_kv_heads % part.num_shards == 0 &&
        model.intermediate_size % part.num_shards == 0)
      << "layers=" << part.num_layers << " shard=" << part.shard << " of " << part.num_shards;
  CHECK(limits.device_bytes > 0 && limits.max_model_len > 0 && limits.max_num_batched_tokens > 0 &&
        limits.max_num_seqs > 0)
      << "bytes=" << limits.device_bytes << " len=" << limits.max_model_len
      << " batched=" << limits.max_num_batched_tokens << " seqs=" << limits.max_num_seqs;
  const Shard shard(model, part);
  Allocations memory;
  MemoryBudget budget;
  budget.usable = std::llround(limits.utilization * static_cast<double>(limits.device_bytes));
  budget.weights = WeightBytes(model, part, shard, limits.element_bytes, memory);
  budget.activations = ActivationBytes(model, shard, limits, memory);
  budget.logits = LogitsBytes(model, part, shard, limits, memory);
  budget.workspaces = WorkspaceBytes(model, part, shard, limits, memory);
  budget.runtime = limits.runtime_bytes + memory.lost();
  // K and V of a head and token, with a scale of 2 bytes each (kernels' KvLayout).
  budget.kv_block = int64_t{part.num_layers} * 2 * shard.kv_heads * kKvBlockTokens *
                    (model.head_dim * limits.kv_element_bytes + 2);
  budget.longest_blocks = CeilDiv(limits.max_model_len, kKvBlockTokens);
  budget.short_blocks = CeilDiv(kShortRequestTokens, kKvBlockTokens);
  return budget;
}

MemoryBudget BudgetTightestRank(const ModelConfig& model, std::span<const int> layers,
                                int32_t num_shards, const MemoryLimits& limits) {
  CHECK(!layers.empty());
  std::optional<MemoryBudget> tightest;
  for (size_t stage = 0; stage < layers.size(); ++stage) {
    for (int32_t shard = 0; shard < num_shards; ++shard) {
      const MemoryBudget budget = BudgetMemory(model,
                                               {.num_layers = layers[stage],
                                                .has_embedding = stage == 0,
                                                .has_head = stage + 1 == layers.size(),
                                                .shard = shard,
                                                .num_shards = num_shards,
                                                .num_stages = static_cast<int32_t>(layers.size())},
                                               limits);
      const auto is_tighter = [](const MemoryBudget& a, const MemoryBudget& b) {
        if (a.KvBlocks() != b.KvBlocks()) return a.KvBlocks() < b.KvBlocks();
        return a.Needed() > b.Needed();
      };
      if (!tightest.has_value() || is_tighter(budget, *tightest)) tightest = budget;
    }
  }
  return *tightest;
}

absl::Status CheckMemory(const ModelConfig& model, std::span<const int> layers, int32_t num_shards,
                         const MemoryLimits& limits) {
  const MemoryBudget budget = BudgetTightestRank(model, layers, num_shards, limits);
  if (budget.Fits()) return absl::OkStatus();
  const auto fits = [&](const MemoryLimits& changed) {
    return BudgetTightestRank(model, layers, num_shards, changed).Fits();
  };
  std::optional<std::string> len;
  std::optional<std::string> batched;
  std::optional<std::string> utilization;
  if (const auto value = LargestThatFits(kKvBlockTokens, limits.max_model_len, kKvBlockTokens,
                                         [&](int64_t tokens) {
                                           MemoryLimits changed = limits;
                                           changed.max_model_len = tokens;
                                           return fits(changed);
                                         })) {
    len = absl::StrCat(*value);
  }
  // A block of prefill beside a full batch of decodes is the least that works.
  if (const auto value =
          LargestThatFits(limits.max_num_seqs + kKvBlockTokens, limits.max_num_batched_tokens,
                          kKvBlockTokens, [&](int64_t tokens) {
                            MemoryLimits changed = limits;
                            changed.max_num_batched_tokens = tokens;
                            return fits(changed);
                          })) {
    batched = absl::StrCat(*value);
  }
  for (int64_t thousandths = std::llround(std::ceil(1000 * limits.utilization));
       !utilization && thousandths <= std::llround(1000 * kMaxUtilization); ++thousandths) {
    MemoryLimits changed = limits;
    changed.utilization = static_cast<double>(thousandths) / 1000;
    if (fits(changed)) utilization = absl::StrCat(changed.utilization);
  }
  std::string hint = absl::StrCat("One of these alone is enough: ", Setting("--max-model-len", len),
                                  ", ", Setting("--max-num-batched-tokens", batched), ", ",
                                  Setting("--gpu-memory-utilization", utilization));
  if (!len && !batched && !utilization) {
    hint =
        "None of --max-model-len, --max-num-batched-tokens and --gpu-memory-utilization alone "
        "makes it fit: lower several, or share the model among more cards";
  }
  const auto gb = [](int64_t bytes) { return static_cast<double>(bytes) / kGb; };
  return absl::InvalidArgumentError(absl::StrFormat(
      "a rank needs %.2f GB of its card for %d tokens (--max-model-len) in steps of %d "
      "(--max-num-batched-tokens), %.2f GB more than %g of the %.2f GB that are free "
      "(--gpu-memory-utilization). %s",
      gb(budget.Needed()), limits.max_model_len, limits.max_num_batched_tokens,
      gb(budget.Needed() - budget.usable), limits.utilization, gb(limits.device_bytes), hint));
}

}  // namespace longhaul::planning
