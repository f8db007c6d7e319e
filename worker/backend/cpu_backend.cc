#include "worker/backend/cpu_backend.h"

#include <sys/mman.h>
#include <sys/utsname.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/thread_pool.h"
#include "kernels/attention/attention.h"
#include "kernels/fused/add.h"
#include "kernels/fused/embedding.h"
#include "kernels/fused/rms_norm.h"
#include "kernels/fused/silu_mul.h"
#include "kernels/gemm/gemm.h"
#include "kernels/logprobs/logprobs.h"
#include "kernels/parallel.h"
#include "kernels/rope/rope_qkv.h"
#include "kernels/rope/rope_table.h"
#include "kernels/sampling/sampling.h"

namespace longhaul::worker::backend {
namespace {

static_assert(kernels::kBlockTokens == kKvBlockTokens);

// Kernels run their tasks on our pool.
class PoolParallel final : public kernels::Parallel {
 public:
  explicit PoolParallel(int num_threads) : pool_(num_threads) {}
  int num_threads() const override { return pool_.num_threads(); }
  void Run(int64_t num_tasks, const std::function<void(int64_t)>& task) override {
    pool_.Run(num_tasks, task);
  }

 private:
  ThreadPool pool_;
};

absl::Status ToStatus(kernels::KernelStatus status, const char* op, const std::string& sizes) {
  if (status == kernels::KernelStatus::kOk) return absl::OkStatus();
  const std::string message = absl::StrCat(op, "(", sizes, "): ", KernelStatusName(status));
  if (status == kernels::KernelStatus::kUnimplemented) return absl::UnimplementedError(message);
  return absl::InternalError(message);
}

// What became of a row of logits.
absl::Status RowStatus(kernels::KernelStatus status, const char* op, int32_t vocab_size) {
  if (status == kernels::KernelStatus::kNotFinite) {
    return absl::InternalError("logits hold NaN or Inf");
  }
  if (status == kernels::KernelStatus::kNoCandidate) {
    return absl::InternalError("every token is banned");
  }
  return ToStatus(status, op, absl::StrCat("vocabulary ", vocab_size));
}

GeneratedToken TokenOf(TokenId token, const kernels::Logprobs& logprobs) {
  GeneratedToken out;
  out.token = token;
  out.logprob = logprobs.logprob;
  for (int32_t i = 0; i < logprobs.num_top; ++i) {
    out.top_logprobs.push_back({logprobs.top_ids[i], logprobs.top_logprobs[i]});
  }
  return out;
}

std::string Sizes(TensorView x, TensorView y) {
  return absl::StrCat("[", x.rows, ", ", x.cols, "] and [", y.rows, ", ", y.cols, "]");
}

kernels::KvLayout LayoutOf(const KvShape& shape) {
  return {.num_kv_heads = shape.num_kv_heads,
          .head_dim = shape.head_dim,
          .dtype = shape.dtype == KvDType::kFloat32 ? kernels::KvDtype::kFloat32
                                                    : kernels::KvDtype::kBFloat16};
}

kernels::PagedKv PagesOf(const KvLayer& kv, const SequenceRows& rows) {
  return {.base = kv.base,
          .block_stride_bytes = kv.block_stride_bytes,
          .block_table = rows.block_table.data(),
          .num_blocks = static_cast<int32_t>(rows.block_table.size()),
          .layout = LayoutOf(kv.shape)};
}

// Whether the last of these rows lies `segments` segments or more from the start.
bool Reaches(const SequenceRows& rows, const RotaryRule& rule, int64_t segments) {
  return rule.chunk_len > 0 && rows.position_begin + rows.num_rows > segments * rule.chunk_len;
}

const float* At(TensorView tensor, int64_t row) { return tensor.f32() + row * tensor.cols; }

kernels::RopeAngles AnglesAt(const RotaryTables::Angles& angles, int64_t row) {
  return {.cos = At(angles.cos, row), .sin = At(angles.sin, row)};
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int num_threads) : parallel_(num_threads) {}

  std::string HardwareName() const override {
    // x86 and POWER tell a name, ARM numbers alone: then the architecture must do.
    std::ifstream cpuinfo("/proc/cpuinfo");
    std::string name;
    for (std::string line; name.empty() && std::getline(cpuinfo, line);) {
      const bool tells = line.rfind("model name", 0) == 0 || line.rfind("cpu\t", 0) == 0;
      const size_t colon = line.find(": ");
      if (tells && colon != std::string::npos) name = line.substr(colon + 2);
    }
    utsname system;
    if (name.empty() && uname(&system) == 0) name = system.machine;
    return absl::StrCat(name, ", ", parallel_.num_threads(), " threads");
  }

  int64_t FreeMemoryBytes() const override {
    std::ifstream meminfo("/proc/meminfo");
    std::string name;
    int64_t kib = 0;
    while (meminfo >> name >> kib) {
      if (name == "MemAvailable:") return kib * 1024;
      meminfo.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
    // Every Linux since 3.14 has the line.
    LOG(FATAL) << "no MemAvailable in /proc/meminfo";
    return 0;
  }

  absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes) override {
    if (bytes <= 0) return absl::InternalError(absl::StrCat("allocation of ", bytes, " bytes"));
    void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          absl::StrCat("allocation of ", bytes, " bytes: ", std::strerror(errno)));
    }
    return DeviceBuffer(data, bytes, [bytes](void* p) { munmap(p, static_cast<size_t>(bytes)); });
  }

  absl::Status CopyToDevice(const void* host, TensorView dst) override {
    if (dst.bytes() > 0) std::memcpy(dst.data, host, static_cast<size_t>(dst.bytes()));
    return absl::OkStatus();
  }

  absl::Status CopyToHost(TensorView src, void* host) override {
    if (src.bytes() > 0) std::memcpy(host, src.data, static_cast<size_t>(src.bytes()));
    return absl::OkStatus();
  }

  absl::Status CopyColumns(TensorView src, TensorView dst, int64_t column) override {
    if (src.dtype != dst.dtype || src.rows != dst.rows || column < 0 ||
        column > dst.cols - src.cols) {
      return absl::InternalError(
          absl::StrCat("copy_columns(", Sizes(src, dst), ", column ", column, ")"));
    }
    const int64_t element = DTypeBytes(src.dtype);
    for (int64_t row = 0; row < src.rows && src.cols > 0; ++row) {
      std::memcpy(static_cast<uint8_t*>(dst.Rows(row, 1).data) + column * element,
                  src.Rows(row, 1).data, static_cast<size_t>(src.cols * element));
    }
    return absl::OkStatus();
  }

  int64_t KvLayerBlockBytes(const KvShape& shape) const override {
    return LayoutOf(shape).BlockBytes();
  }

  absl::Status Embed(TensorView table, std::span<const TokenId> ids, TensorView out) override {
    const kernels::EmbeddingParams params = {.table = table.f32(),
                                             .vocab_size = static_cast<int32_t>(table.rows),
                                             .hidden = static_cast<int32_t>(table.cols),
                                             .ids = ids.data(),
                                             .num_rows = static_cast<int64_t>(ids.size()),
                                             .out = out.f32()};
    return ToStatus(kernels::EmbeddingCpu(params, parallel_), "embedding", Sizes(table, out));
  }

  absl::Status RmsNorm(TensorView x, TensorView residual, TensorView weight, double eps,
                       TensorView out) override {
    const kernels::RmsNormParams params = {.x = x.f32(),
                                           .residual = residual.f32(),
                                           .weight = weight.f32(),
                                           .num_rows = x.rows,
                                           .hidden = static_cast<int32_t>(x.cols),
                                           .eps = static_cast<float>(eps),
                                           .out = out.f32()};
    return ToStatus(kernels::RmsNormCpu(params, parallel_), "rms_norm", Sizes(x, out));
  }

  absl::Status Add(TensorView x, TensorView y) override {
    const kernels::AddParams params = {.x = x.f32(), .y = y.f32(), .size = x.size()};
    return ToStatus(kernels::AddCpu(params, parallel_), "add", Sizes(x, y));
  }

  absl::Status Linear(TensorView x, const LinearWeight& linear, TensorView y) override {
    kernels::GemmParams params = {.x = x.f32(),
                                  .weight = linear.weight.data,
                                  .weight_dtype = kernels::WeightDtype::kFloat32,
                                  .bias = linear.bias.f32(),
                                  .m = x.rows,
                                  .n = linear.weight.rows,
                                  .k = linear.weight.cols,
                                  .workspace = nullptr,
                                  .y = y.f32()};
    const int64_t bytes = static_cast<int64_t>(kernels::GemmCpuWorkspaceBytes(params));
    if (bytes > workspace_.bytes()) {
      ASSIGN_OR_RETURN(workspace_, Allocate(bytes));
    }
    params.workspace = workspace_.data();
    return ToStatus(kernels::GemmCpu(params, parallel_), "gemm", Sizes(x, linear.weight));
  }

  absl::Status SiluMul(TensorView gate_up, TensorView out) override {
    const kernels::SiluMulParams params = {.gate = gate_up.f32(),
                                           .up = gate_up.f32() + out.cols,
                                           .gate_stride = gate_up.cols,
                                           .up_stride = gate_up.cols,
                                           .num_rows = out.rows,
                                           .cols = out.cols,
                                           .out = out.f32()};
    return ToStatus(kernels::SiluMulCpu(params, parallel_), "silu_mul", Sizes(gate_up, out));
  }

  absl::Status ComputeRotary(const RotaryRule& rule, std::span<const SequenceRows> rows,
                             const RotaryTables& tables) override {
    positions_.clear();
    bool has_succ = false;
    bool has_inter = false;
    for (const SequenceRows& part : rows) {
      for (int64_t i = 0; i < part.num_rows; ++i) positions_.push_back(part.position_begin + i);
      has_succ |= Reaches(part, rule, 1);
      has_inter |= Reaches(part, rule, 2);
    }
    RETURN_IF_ERROR(RotaryTable(rule, kernels::RopeVariant::kIntra, tables.intra));
    if (has_succ) {
      RETURN_IF_ERROR(RotaryTable(rule, kernels::RopeVariant::kSucc, tables.succ));
    }
    if (has_inter) {
      RETURN_IF_ERROR(RotaryTable(rule, kernels::RopeVariant::kInter, tables.inter));
    }
    return absl::OkStatus();
  }

  absl::Status RotateAndStore(TensorView qkv, TensorView query_scale, const RotaryRule& rule,
                              const RotaryTables& tables, std::span<const SequenceRows> rows,
                              const KvLayer& kv, const RotatedQueries& queries) override {
    for (const SequenceRows& part : rows) {
      const int64_t row = part.row_begin;
      kernels::RopeQkvParams params = {
          .qkv = At(qkv, row),
          .num_rows = part.num_rows,
          .position_begin = part.position_begin,
          .num_q_heads = static_cast<int32_t>(queries.intra.cols / kv.shape.head_dim),
          .query_scale = query_scale.f32() + row,
          .intra = AnglesAt(tables.intra, row),
          .succ = {},
          .inter = {},
          .q_intra = queries.intra.f32() + row * queries.intra.cols,
          .q_succ = nullptr,
          .q_inter = nullptr,
          .kv = PagesOf(kv, part)};
      if (Reaches(part, rule, 1)) {
        params.succ = AnglesAt(tables.succ, row);
        params.q_succ = queries.succ.f32() + row * queries.succ.cols;
      }
      if (Reaches(part, rule, 2)) {
        params.inter = AnglesAt(tables.inter, row);
        params.q_inter = queries.inter.f32() + row * queries.inter.cols;
      }
      RETURN_IF_ERROR(ToStatus(kernels::RopeQkvCpu(params, parallel_), "rope_qkv",
                               absl::StrCat(part.num_rows, " rows at ", part.position_begin, ", ",
                                            part.block_table.size(), " blocks")));
    }
    return absl::OkStatus();
  }

  absl::Status Attend(const RotatedQueries& queries, const RotaryRule& rule,
                      std::span<const SequenceRows> rows, const KvLayer& kv,
                      TensorView out) override {
    for (const SequenceRows& part : rows) {
      const int64_t row = part.row_begin;
      const kernels::AttentionParams params = {
          .q_intra = At(queries.intra, row),
          .q_succ = Reaches(part, rule, 1) ? At(queries.succ, row) : nullptr,
          .q_inter = Reaches(part, rule, 2) ? At(queries.inter, row) : nullptr,
          .num_rows = part.num_rows,
          .query_begin = part.position_begin,
          .num_q_heads = static_cast<int32_t>(out.cols / kv.shape.head_dim),
          .softmax_scale = static_cast<float>(1.0 / std::sqrt(kv.shape.head_dim)),
          .chunk_len = rule.chunk_len,
          .kv = PagesOf(kv, part),
          .out = out.f32() + row * out.cols,
          .lse = nullptr};
      RETURN_IF_ERROR(
          ToStatus(kernels::AttentionCpu(params, parallel_), "attention",
                   absl::StrCat(part.num_rows, " rows at ", part.position_begin, ", head_dim ",
                                kv.shape.head_dim, ", chunk_len ", rule.chunk_len)));
    }
    return absl::OkStatus();
  }

  std::vector<absl::StatusOr<GeneratedToken>> Sample(std::span<const SampleRow> rows) override {
    std::vector<absl::StatusOr<GeneratedToken>> tokens(rows.size(), GeneratedToken{});
    parallel_.Run(static_cast<int64_t>(rows.size()), [&](int64_t i) {
      tokens[static_cast<size_t>(i)] = SampleOne(rows[static_cast<size_t>(i)]);
    });
    return tokens;
  }

  std::vector<absl::StatusOr<GeneratedToken>> Logprobs(std::span<const LogprobsRow> rows) override {
    std::vector<absl::StatusOr<GeneratedToken>> tokens(rows.size(), GeneratedToken{});
    parallel_.Run(static_cast<int64_t>(rows.size()), [&](int64_t i) {
      tokens[static_cast<size_t>(i)] = LogprobsOfOne(rows[static_cast<size_t>(i)]);
    });
    return tokens;
  }

 private:
  absl::Status RotaryTable(const RotaryRule& rule, kernels::RopeVariant variant,
                           const RotaryTables::Angles& angles) {
    const kernels::RopeTableParams params = {.positions = positions_.data(),
                                             .num_rows = static_cast<int64_t>(positions_.size()),
                                             .head_dim = rule.head_dim,
                                             .theta = rule.theta,
                                             .variant = variant,
                                             .chunk_len = rule.chunk_len,
                                             .chunk_size = rule.chunk_size,
                                             .cos = angles.cos.f32(),
                                             .sin = angles.sin.f32()};
    return ToStatus(kernels::RopeTableCpu(params, parallel_), "rope_table",
                    absl::StrCat(params.num_rows, " rows, head_dim ", rule.head_dim));
  }

  static absl::StatusOr<GeneratedToken> SampleOne(const SampleRow& row) {
    const SamplingParams& wanted = *row.params;
    const int32_t vocab_size = static_cast<int32_t>(row.logits.cols);
    std::vector<int32_t> bias_ids;
    std::vector<float> bias_values;
    for (const auto& [id, bias] : wanted.logit_bias) {
      bias_ids.push_back(id);
      bias_values.push_back(bias);
    }
    std::vector<uint64_t> workspace((kernels::SamplingWorkspaceBytes(vocab_size) + 7) / 8);
    const kernels::SamplingParams params = {
        .logits = row.logits.f32(),
        .vocab_size = vocab_size,
        .temperature = wanted.temperature,
        .top_k = wanted.top_k,
        .top_p = wanted.top_p,
        .min_p = wanted.min_p,
        .repetition_penalty = wanted.repetition_penalty,
        .seen = row.seen.empty() ? nullptr : row.seen.data(),
        .presence_penalty = wanted.presence_penalty,
        .frequency_penalty = wanted.frequency_penalty,
        .counts = row.output_counts.empty() ? nullptr : row.output_counts.data(),
        .bias_ids = bias_ids.data(),
        .bias_values = bias_values.data(),
        .num_bias = static_cast<int32_t>(bias_ids.size()),
        .banned_ids = row.banned.data(),
        .num_banned = static_cast<int32_t>(row.banned.size()),
        .seed = wanted.seed,
        .token_index = row.output_index,
        .num_top_logprobs = wanted.top_logprobs.value_or(0),
        .workspace = workspace.data()};
    kernels::SamplingResult result;
    const kernels::KernelStatus status = kernels::SamplingCpu(params, &result);
    RETURN_IF_ERROR(RowStatus(status, "sampling", vocab_size));
    if (wanted.top_logprobs.has_value()) return TokenOf(result.token, result);
    GeneratedToken token;
    token.token = result.token;
    return token;
  }

  static absl::StatusOr<GeneratedToken> LogprobsOfOne(const LogprobsRow& row) {
    const int32_t vocab_size = static_cast<int32_t>(row.logits.cols);
    const kernels::LogprobsParams params = {.logits = row.logits.f32(),
                                            .vocab_size = vocab_size,
                                            .token = row.token,
                                            .num_top = row.num_top};
    kernels::Logprobs result;
    RETURN_IF_ERROR(RowStatus(kernels::LogprobsCpu(params, &result), "logprobs", vocab_size));
    return TokenOf(row.token, result);
  }

  PoolParallel parallel_;
  DeviceBuffer workspace_;          // of the largest gemm so far
  std::vector<int64_t> positions_;  // of the rows of the current unit
};

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(int num_threads) {
  return std::make_unique<CpuBackend>(num_threads);
}

}  // namespace longhaul::worker::backend
