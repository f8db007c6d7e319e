#include "worker/backend/cpu_backend.h"

#include <sys/mman.h>
#include <sys/utsname.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
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
#include "kernels/parallel.h"
#include "kernels/random/normal.h"
#include "kernels/rope/rope_qkv.h"
#include "kernels/rope/rope_table.h"
#include "worker/backend/cpu_sampling.h"
#include "worker/backend/host_memory.h"
#include "worker/backend/kernel_status.h"

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

const float* At(TensorView tensor, int64_t row) { return tensor.f32() + row * tensor.cols; }

// Work is done when a call returns, so a moment in it is one of the clock.
struct CpuMark final : Mark {
  std::chrono::steady_clock::time_point time;
};

// Rows as they were given, and their angles.
class CpuRowPlan final : public RowPlan {
 public:
  struct Sequence {
    int64_t row_begin = 0;
    int64_t num_rows = 0;
    int64_t position_begin = 0;
    std::vector<BlockId> block_table;
  };
  struct Angles {
    std::vector<float> cos;  // [T, D/2]
    std::vector<float> sin;
  };

  // Whether the last of these rows lies `segments` segments or more from the start.
  bool Reaches(const Sequence& rows, int64_t segments) const {
    return rule.chunk_len > 0 && rows.position_begin + rows.num_rows > segments * rule.chunk_len;
  }
  kernels::RopeAngles AnglesAt(const Angles& angles, int64_t row) const {
    const int64_t begin = row * rule.head_dim / 2;
    return {.cos = angles.cos.data() + begin, .sin = angles.sin.data() + begin};
  }

  RotaryRule rule;
  std::vector<Sequence> sequences;
  std::vector<float> query_scale;
  std::vector<TokenId> ids;
  Angles intra, succ, inter;  // succ and inter only where a row reaches so far
};

// Every plan that a backend is given is its own.
const CpuRowPlan& PlanOf(const RowPlan& plan) { return static_cast<const CpuRowPlan&>(plan); }

kernels::PagedKv PagesOf(const KvLayer& kv, const CpuRowPlan::Sequence& rows) {
  return {.base = kv.base,
          .block_stride_bytes = kv.block_stride_bytes,
          .block_table = rows.block_table.data(),
          .num_blocks = static_cast<int32_t>(rows.block_table.size()),
          .layout = LayoutOf(kv.shape)};
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

  int64_t FreeMemoryBytes() const override { return FreeHostMemoryBytes(); }

  DType activation_dtype() const override { return DType::kFloat32; }

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

  absl::Status Finish() override { return absl::OkStatus(); }

  Stream StreamOf(Lane /*lane*/) override { return {}; }
  std::unique_ptr<Mark> MakeMark() override { return std::make_unique<CpuMark>(); }
  absl::Status Record(Lane /*lane*/, Mark& mark) override {
    static_cast<CpuMark&>(mark).time = std::chrono::steady_clock::now();
    return absl::OkStatus();
  }
  absl::Status Await(const Mark& /*mark*/, Lane /*lane*/) override { return absl::OkStatus(); }
  absl::StatusOr<absl::Duration> Elapsed(const Mark& begin, const Mark& end) override {
    return absl::FromChrono(static_cast<const CpuMark&>(end).time -
                            static_cast<const CpuMark&>(begin).time);
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

  absl::Status FillNormal(const NormalWindow& window, double sigma, TensorView out) override {
    const kernels::NormalParams<float> params = {.seed = window.seed,
                                                 .stream = window.stream,
                                                 .row_begin = window.row_begin,
                                                 .col_begin = window.col_begin,
                                                 .num_rows = out.rows,
                                                 .num_cols = out.cols,
                                                 .sigma = static_cast<float>(sigma),
                                                 .out = out.f32()};
    return ToStatus(kernels::NormalCpu(params, parallel_), "normal", Sizes(out, out));
  }

  int64_t KvLayerBlockBytes(const KvShape& shape) const override {
    return LayoutOf(shape).BlockBytes();
  }

  std::unique_ptr<RowPlan> MakeRowPlan() override { return std::make_unique<CpuRowPlan>(); }

  absl::Status PlanRows(const RotaryRule& rule, const UnitRows& rows, RowPlan& plan) override {
    CpuRowPlan& filled = static_cast<CpuRowPlan&>(plan);
    filled.rule = rule;
    filled.query_scale.assign(rows.query_scale.begin(), rows.query_scale.end());
    filled.ids.assign(rows.ids.begin(), rows.ids.end());
    filled.sequences.resize(rows.sequences.size());
    positions_.clear();
    bool has_succ = false;
    bool has_inter = false;
    for (size_t i = 0; i < rows.sequences.size(); ++i) {
      const SequenceRows& from = rows.sequences[i];
      CpuRowPlan::Sequence& to = filled.sequences[i];
      to.row_begin = from.row_begin;
      to.num_rows = from.num_rows;
      to.position_begin = from.position_begin;
      to.block_table.assign(from.block_table.begin(), from.block_table.end());
      for (int64_t row = 0; row < to.num_rows; ++row) positions_.push_back(to.position_begin + row);
      has_succ |= filled.Reaches(to, 1);
      has_inter |= filled.Reaches(to, 2);
    }
    RETURN_IF_ERROR(RotaryTable(rule, kernels::RopeVariant::kIntra, filled.intra));
    if (has_succ) {
      RETURN_IF_ERROR(RotaryTable(rule, kernels::RopeVariant::kSucc, filled.succ));
    }
    if (has_inter) {
      RETURN_IF_ERROR(RotaryTable(rule, kernels::RopeVariant::kInter, filled.inter));
    }
    return absl::OkStatus();
  }

  absl::Status Embed(TensorView table, const RowPlan& plan, TensorView out) override {
    const std::vector<TokenId>& ids = PlanOf(plan).ids;
    const kernels::EmbeddingParams<float> params = {.table = table.f32(),
                                                    .vocab_size = static_cast<int32_t>(table.rows),
                                                    .hidden = static_cast<int32_t>(table.cols),
                                                    .ids = ids.data(),
                                                    .num_rows = static_cast<int64_t>(ids.size()),
                                                    .out = out.f32()};
    return ToStatus(kernels::EmbeddingCpu(params, parallel_), "embedding", Sizes(table, out));
  }

  absl::Status RmsNorm(TensorView x, TensorView weight, double eps, TensorView out) override {
    const kernels::RmsNormParams<float> params = {.x = x.f32(),
                                                  .weight = weight.f32(),
                                                  .num_rows = x.rows,
                                                  .hidden = static_cast<int32_t>(x.cols),
                                                  .eps = static_cast<float>(eps),
                                                  .out = out.f32()};
    return ToStatus(kernels::RmsNormCpu(params, parallel_), "rms_norm", Sizes(x, out));
  }

  absl::Status Add(TensorView x, TensorView y) override {
    const kernels::AddParams<float> params = {.x = x.f32(), .y = y.f32(), .size = x.size()};
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

  absl::Status LinearAdd(TensorView x, TensorView weight, TensorView y) override {
    if (product_.bytes() < y.bytes()) {
      ASSIGN_OR_RETURN(product_, Allocate(y.bytes()));
    }
    const TensorView product{product_.data(), y.dtype, y.rows, y.cols};
    RETURN_IF_ERROR(Linear(x, {weight, {}}, product));
    return Add(y, product);
  }

  absl::Status SiluMul(TensorView gate_up, TensorView out) override {
    const kernels::SiluMulParams<float> params = {.gate = gate_up.f32(),
                                                  .up = gate_up.f32() + out.cols,
                                                  .gate_stride = gate_up.cols,
                                                  .up_stride = gate_up.cols,
                                                  .num_rows = out.rows,
                                                  .cols = out.cols,
                                                  .out = out.f32()};
    return ToStatus(kernels::SiluMulCpu(params, parallel_), "silu_mul", Sizes(gate_up, out));
  }

  absl::Status RotateAndStore(TensorView qkv, const RowPlan& row_plan, const KvLayer& kv,
                              const RotatedQueries& queries) override {
    const CpuRowPlan& plan = PlanOf(row_plan);
    for (const CpuRowPlan::Sequence& part : plan.sequences) {
      const int64_t row = part.row_begin;
      kernels::RopeQkvParams params = {
          .qkv = At(qkv, row),
          .num_rows = part.num_rows,
          .position_begin = part.position_begin,
          .num_q_heads = static_cast<int32_t>(queries.intra.cols / kv.shape.head_dim),
          .query_scale = plan.query_scale.data() + row,
          .intra = plan.AnglesAt(plan.intra, row),
          .succ = {},
          .inter = {},
          .q_intra = queries.intra.f32() + row * queries.intra.cols,
          .q_succ = nullptr,
          .q_inter = nullptr,
          .kv = PagesOf(kv, part)};
      if (plan.Reaches(part, 1)) {
        params.succ = plan.AnglesAt(plan.succ, row);
        params.q_succ = queries.succ.f32() + row * queries.succ.cols;
      }
      if (plan.Reaches(part, 2)) {
        params.inter = plan.AnglesAt(plan.inter, row);
        params.q_inter = queries.inter.f32() + row * queries.inter.cols;
      }
      RETURN_IF_ERROR(ToStatus(kernels::RopeQkvCpu(params, parallel_), "rope_qkv",
                               absl::StrCat(part.num_rows, " rows at ", part.position_begin, ", ",
                                            part.block_table.size(), " blocks")));
    }
    return absl::OkStatus();
  }

  absl::Status Attend(const RotatedQueries& queries, const RowPlan& row_plan, const KvLayer& kv,
                      TensorView out) override {
    const CpuRowPlan& plan = PlanOf(row_plan);
    for (const CpuRowPlan::Sequence& part : plan.sequences) {
      const int64_t row = part.row_begin;
      const kernels::AttentionParams params = {
          .q_intra = At(queries.intra, row),
          .q_succ = plan.Reaches(part, 1) ? At(queries.succ, row) : nullptr,
          .q_inter = plan.Reaches(part, 2) ? At(queries.inter, row) : nullptr,
          .num_rows = part.num_rows,
          .query_begin = part.position_begin,
          .num_q_heads = static_cast<int32_t>(out.cols / kv.shape.head_dim),
          .softmax_scale = static_cast<float>(1.0 / std::sqrt(kv.shape.head_dim)),
          .chunk_len = plan.rule.chunk_len,
          .kv = PagesOf(kv, part),
          .out = out.f32() + row * out.cols,
          .lse = nullptr};
      RETURN_IF_ERROR(
          ToStatus(kernels::AttentionCpu(params, parallel_), "attention",
                   absl::StrCat(part.num_rows, " rows at ", part.position_begin, ", head_dim ",
                                kv.shape.head_dim, ", chunk_len ", plan.rule.chunk_len)));
    }
    return absl::OkStatus();
  }

  std::vector<absl::StatusOr<GeneratedToken>> Sample(std::span<const SampleRow> rows) override {
    std::vector<absl::StatusOr<GeneratedToken>> tokens(rows.size(), GeneratedToken{});
    parallel_.Run(static_cast<int64_t>(rows.size()), [&](int64_t i) {
      tokens[static_cast<size_t>(i)] = SampleOnCpu(rows[static_cast<size_t>(i)]);
    });
    return tokens;
  }

  std::vector<absl::StatusOr<GeneratedToken>> Logprobs(std::span<const LogprobsRow> rows) override {
    std::vector<absl::StatusOr<GeneratedToken>> tokens(rows.size(), GeneratedToken{});
    parallel_.Run(static_cast<int64_t>(rows.size()), [&](int64_t i) {
      tokens[static_cast<size_t>(i)] = LogprobsOnCpu(rows[static_cast<size_t>(i)]);
    });
    return tokens;
  }

 private:
  absl::Status RotaryTable(const RotaryRule& rule, kernels::RopeVariant variant,
                           CpuRowPlan::Angles& angles) {
    angles.cos.resize(positions_.size() * static_cast<size_t>(rule.head_dim / 2));
    angles.sin.resize(angles.cos.size());
    const kernels::RopeTableParams params = {.positions = positions_.data(),
                                             .num_rows = static_cast<int64_t>(positions_.size()),
                                             .head_dim = rule.head_dim,
                                             .theta = rule.theta,
                                             .variant = variant,
                                             .chunk_len = rule.chunk_len,
                                             .chunk_size = rule.chunk_size,
                                             .cos = angles.cos.data(),
                                             .sin = angles.sin.data()};
    return ToStatus(kernels::RopeTableCpu(params, parallel_), "rope_table",
                    absl::StrCat(params.num_rows, " rows, head_dim ", rule.head_dim));
  }

  PoolParallel parallel_;
  DeviceBuffer workspace_;          // of the largest gemm so far
  DeviceBuffer product_;            // of the largest LinearAdd so far
  std::vector<int64_t> positions_;  // of the rows being planned
};

}  // namespace

std::unique_ptr<Backend> MakeCpuBackend(int num_threads) {
  return std::make_unique<CpuBackend>(num_threads);
}

}  // namespace longhaul::worker::backend
