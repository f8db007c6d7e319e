#include "worker/backend/cuda_backend.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/device_stream.h"
#include "kernels/fused/add.h"
#include "kernels/fused/embedding.h"
#include "kernels/fused/rms_norm.h"
#include "kernels/fused/silu_mul.h"
#include "kernels/gemm/gemm_cuda.h"
#include "kernels/gemm/gemv_cuda.h"
#include "kernels/random/normal.h"
#include "kernels/rope/rope_qkv_paged.h"
#include "kernels/rope/rope_table.h"
#include "worker/backend/cuda_graphs.h"
#include "worker/backend/cuda_lanes.h"
#include "worker/backend/cuda_memory.h"
#include "worker/backend/cuda_row_plan.h"
#include "worker/backend/cuda_sampling.h"
#include "worker/backend/cuda_status.h"
#include "worker/backend/kernel_status.h"

namespace longhaul::worker::backend {
namespace {

using kernels::BFloat16;

// Host memory goes to the device through page-locked memory, so much at a time.
constexpr int64_t kUploadBytes = int64_t{8} << 20;

BFloat16* Bf16(TensorView tensor) {
  CHECK(tensor.data == nullptr || tensor.dtype == DType::kBFloat16)
      << "[" << tensor.rows << ", " << tensor.cols << "] is not bf16";
  return static_cast<BFloat16*>(tensor.data);
}

// Every plan that a backend is given is its own.
const CudaRowPlan& PlanOf(const RowPlan& plan) { return static_cast<const CudaRowPlan&>(plan); }

class CudaBackend final : public Backend {
 public:
  static absl::StatusOr<std::unique_ptr<Backend>> Create(int device, const CudaOptions& options) {
    int count = 0;
    RETURN_IF_ERROR(CudaStatus(cudaGetDeviceCount(&count), "looking for CUDA devices"));
    if (device < 0 || device >= count) {
      return absl::FailedPreconditionError(
          absl::StrCat("CUDA device ", device, " of ", count, " on this host, from 0"));
    }
    std::unique_ptr<CudaBackend> backend(new CudaBackend(device, options));
    RETURN_IF_ERROR(backend->Open()) << "CUDA device " << device;
    return std::unique_ptr<Backend>(std::move(backend));
  }

  ~CudaBackend() override { cudaSetDevice(device_); }  // for what its members free

  DType activation_dtype() const override { return DType::kBFloat16; }
  std::string HardwareName() const override { return name_; }

  int64_t FreeMemoryBytes() const override {
    size_t free = 0;
    size_t total = 0;
    cudaError_t error = EnterDevice();
    if (error == cudaSuccess) error = cudaMemGetInfo(&free, &total);
    // Nothing can be done on a device that does not answer this.
    CHECK(error == cudaSuccess) << "CUDA device " << device_ << ": " << cudaGetErrorString(error);
    return static_cast<int64_t>(free);
  }

  absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes) override {
    RETURN_IF_ERROR(Enter());
    return AllocateCuda(bytes, stream_);
  }

  // Through page-locked memory, in turns: while one part travels the next one is written.
  absl::Status CopyToDevice(const void* host, TensorView dst) override {
    RETURN_IF_ERROR(Enter());
    for (int64_t done = 0; done < dst.bytes(); done += kUploadBytes) {
      const int64_t bytes = std::min(kUploadBytes, dst.bytes() - done);
      UploadBuffer& upload = uploads_[next_upload_];
      next_upload_ ^= 1;
      RETURN_IF_ERROR(upload.Reserve(bytes));
      std::memcpy(upload.data(), static_cast<const uint8_t*>(host) + done,
                  static_cast<size_t>(bytes));
      RETURN_IF_ERROR(upload.Send(bytes, static_cast<uint8_t*>(dst.data) + done, stream_));
    }
    return absl::OkStatus();
  }

  absl::Status CopyToHost(TensorView src, void* host) override {
    RETURN_IF_ERROR(Enter());
    if (src.bytes() == 0) return absl::OkStatus();
    RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(host, src.data, static_cast<size_t>(src.bytes()),
                                               cudaMemcpyDeviceToHost, stream_),
                               absl::StrCat("copy of ", src.bytes(), " bytes from the device")));
    return CudaStatus(cudaStreamSynchronize(stream_), "work before a copy from the device");
  }

  absl::Status Finish() override {
    RETURN_IF_ERROR(Enter());
    return CudaStatus(cudaStreamSynchronize(stream_), "work on the device");
  }

  Stream StreamOf(Lane lane) override { return {lanes_.StreamOf(lane)}; }
  std::unique_ptr<Mark> MakeMark() override { return lanes_.MakeMark(); }
  absl::Status Record(Lane lane, Mark& mark) override {
    RETURN_IF_ERROR(Enter());
    return lanes_.Record(lane, mark);
  }
  absl::Status Await(const Mark& mark, Lane lane) override {
    RETURN_IF_ERROR(Enter());
    return lanes_.Await(mark, lane);
  }
  absl::StatusOr<absl::Duration> Elapsed(const Mark& begin, const Mark& end) override {
    RETURN_IF_ERROR(Enter());
    return lanes_.Elapsed(begin, end);
  }

  absl::Status Repeat(const RowPlan& row_plan, std::span<const uint64_t> tag,
                      absl::FunctionRef<absl::Status()> enqueue) override {
    RETURN_IF_ERROR(Enter());
    const CudaRowPlan& plan = PlanOf(row_plan);
    if (!plan.rows().is_decode()) return enqueue();
    CudaGraphs::Key key = plan.Key();
    key.push_back(decode_workspace_.address());
    key.insert(key.end(), tag.begin(), tag.end());
    chained_ = true;
    const absl::Status done = options_.graphs ? graphs_.Run(key, stream_, enqueue) : enqueue();
    chained_ = false;
    return done;
  }

  absl::Status CopyColumns(TensorView src, TensorView dst, int64_t column) override {
    RETURN_IF_ERROR(Enter());
    if (src.dtype != dst.dtype || src.rows != dst.rows || column < 0 ||
        column > dst.cols - src.cols) {
      return absl::InternalError(
          absl::StrCat("copy_columns(", Sizes(src, dst), ", column ", column, ")"));
    }
    if (src.size() == 0) return absl::OkStatus();
    const size_t element = static_cast<size_t>(DTypeBytes(src.dtype));
    const size_t width = static_cast<size_t>(src.cols) * element;
    return CudaStatus(
        cudaMemcpy2DAsync(static_cast<uint8_t*>(dst.data) + static_cast<size_t>(column) * element,
                          static_cast<size_t>(dst.cols) * element, src.data, width, width,
                          static_cast<size_t>(src.rows), cudaMemcpyDeviceToDevice, stream_),
        absl::StrCat("copy_columns(", Sizes(src, dst), ")"));
  }

  absl::Status FillNormal(const NormalWindow& window, double sigma, TensorView out) override {
    RETURN_IF_ERROR(Enter());
    const kernels::NormalParams<BFloat16> params = {.seed = window.seed,
                                                    .stream = window.stream,
                                                    .row_begin = window.row_begin,
                                                    .col_begin = window.col_begin,
                                                    .num_rows = out.rows,
                                                    .num_cols = out.cols,
                                                    .sigma = static_cast<float>(sigma),
                                                    .out = Bf16(out)};
    return Launched(kernels::NormalCuda(params, stream()), "normal", Sizes(out, out));
  }

  int64_t KvLayerBlockBytes(const KvShape& shape) const override {
    return LayoutOf(shape).BlockBytes();
  }

  std::unique_ptr<RowPlan> MakeRowPlan() override { return std::make_unique<CudaRowPlan>(); }

  absl::Status PlanRows(const RotaryRule& rule, const UnitRows& rows, RowPlan& plan) override {
    RETURN_IF_ERROR(Enter());
    return static_cast<CudaRowPlan&>(plan).Fill(rule, rows, stream_);
  }

  absl::Status Embed(TensorView table, const RowPlan& row_plan, TensorView out) override {
    RETURN_IF_ERROR(Enter());
    const PackedRows& rows = PlanOf(row_plan).rows();
    if (rows.min_id() < 0 || rows.max_id() >= table.rows) {
      return absl::InternalError(absl::StrCat("embedding(", Sizes(table, out), "): ids are [",
                                              rows.min_id(), ", ", rows.max_id(), "]"));
    }
    const kernels::EmbeddingParams<BFloat16> params = {
        .table = Bf16(table),
        .vocab_size = static_cast<int32_t>(table.rows),
        .hidden = static_cast<int32_t>(table.cols),
        .ids = PlanOf(row_plan).At<TokenId>(rows.arrays().ids),
        .num_rows = rows.arrays().ids.count,
        .out = Bf16(out)};
    return Launched(kernels::EmbeddingCuda(params, stream()), "embedding", Sizes(table, out));
  }

  absl::Status RmsNorm(TensorView x, TensorView weight, double eps, TensorView out) override {
    RETURN_IF_ERROR(Enter());
    const kernels::RmsNormParams<BFloat16> params = {.x = Bf16(x),
                                                     .weight = weight.f32(),
                                                     .num_rows = x.rows,
                                                     .hidden = static_cast<int32_t>(x.cols),
                                                     .eps = static_cast<float>(eps),
                                                     .out = Bf16(out)};
    return Launched(kernels::RmsNormCuda(params, stream()), "rms_norm", Sizes(x, out));
  }

  absl::Status Add(TensorView x, TensorView y) override {
    RETURN_IF_ERROR(Enter());
    const kernels::AddParams<BFloat16> params = {.x = Bf16(x), .y = Bf16(y), .size = x.size()};
    return Launched(kernels::AddCuda(params, stream()), "add", Sizes(x, y));
  }

  absl::Status Linear(TensorView x, const LinearWeight& linear, TensorView y) override {
    return Multiply(x, linear, y, /*adds=*/false);
  }

  absl::Status LinearAdd(TensorView x, TensorView weight, TensorView y) override {
    return Multiply(x, {weight, {}}, y, /*adds=*/true);
  }

  absl::Status GatedLinear(TensorView x, const LinearWeight& linear, TensorView gate_up,
                           TensorView out) override {
    if (x.rows > kernels::kMaxGemvRows || x.cols % 8 != 0 || out.cols % 8 != 0) {
      return Backend::GatedLinear(x, linear, gate_up, out);
    }
    RETURN_IF_ERROR(Enter());
    return Launched(kernels::GatedGemvCuda(Product(x, linear, out, /*adds=*/false), stream()),
                    "gated_gemv", Sizes(x, linear.weight));
  }

  absl::Status SiluMul(TensorView gate_up, TensorView out) override {
    RETURN_IF_ERROR(Enter());
    const kernels::SiluMulParams<BFloat16> params = {.gate = Bf16(gate_up),
                                                     .up = Bf16(gate_up) + out.cols,
                                                     .gate_stride = gate_up.cols,
                                                     .up_stride = gate_up.cols,
                                                     .num_rows = out.rows,
                                                     .cols = out.cols,
                                                     .out = Bf16(out)};
    return Launched(kernels::SiluMulCuda(params, stream()), "silu_mul", Sizes(gate_up, out));
  }

  absl::Status RotateAndStore(TensorView qkv, const RowPlan& row_plan, const KvLayer& kv,
                              const RotatedQueries& queries) override {
    RETURN_IF_ERROR(Enter());
    const CudaRowPlan& plan = PlanOf(row_plan);
    const PackedRows::Arrays& arrays = plan.rows().arrays();
    const kernels::RopeQkvPagedParams params = {
        .qkv = Bf16(qkv),
        .query_scale = plan.At<float>(arrays.query_scale),
        .intra = plan.intra(),
        .succ = plan.succ(),
        .inter = plan.inter(),
        .slot = plan.At<int64_t>(arrays.slots),
        .num_empty = plan.At<int32_t>(arrays.num_empty),
        .q_intra = Bf16(queries.intra),
        .q_succ = plan.rows().has_succ() ? Bf16(queries.succ) : nullptr,
        .q_inter = plan.rows().has_inter() ? Bf16(queries.inter) : nullptr,
        .kv_base = kv.base,
        .num_rows = plan.rows().num_rows(),
        .block_stride_bytes = kv.block_stride_bytes,
        .num_q_heads = static_cast<int32_t>(queries.intra.cols / kv.shape.head_dim),
        .layout = LayoutOf(kv.shape)};
    return Launched(kernels::RopeQkvPagedCuda(params, stream()), "rope_qkv", SizesOf(plan, kv));
  }

  absl::Status Attend(const RotatedQueries& queries, const RowPlan& row_plan, const KvLayer& kv,
                      TensorView out) override {
    RETURN_IF_ERROR(Enter());
    const CudaRowPlan& plan = PlanOf(row_plan);
    const PackedRows::Arrays& arrays = plan.rows().arrays();
    const kernels::PagedAttentionParams params = {
        .q_intra = Bf16(queries.intra),
        .q_succ = plan.rows().has_succ() ? Bf16(queries.succ) : nullptr,
        .q_inter = plan.rows().has_inter() ? Bf16(queries.inter) : nullptr,
        .block_tables = plan.At<int32_t>(arrays.block_tables),
        .kv_base = kv.base,
        .out = Bf16(out),
        .lse = nullptr,
        .num_rows = plan.rows().num_rows(),
        .block_stride_bytes = kv.block_stride_bytes,
        .num_blocks = kv.num_blocks,
        .layout = LayoutOf(kv.shape),
        .num_q_heads = static_cast<int32_t>(out.cols / kv.shape.head_dim),
        .softmax_scale = static_cast<float>(1.0 / std::sqrt(kv.shape.head_dim)),
        .chunk_len = plan.chunk_len()};
    if (arrays.tiles.count > 0) {
      RETURN_IF_ERROR(Launched(
          kernels::PrefillAttentionCuda(params, plan.At<kernels::PrefillTile>(arrays.tiles),
                                        static_cast<int32_t>(arrays.tiles.count), stream()),
          "prefill_attention", absl::StrCat(arrays.tiles.count, " tiles, ", SizesOf(plan, kv))));
    }
    if (arrays.decode_rows.count == 0) return absl::OkStatus();
    const int32_t num_splits = static_cast<int32_t>(arrays.splits.count);
    RETURN_IF_ERROR(
        decode_workspace_.Reserve(kernels::DecodeWorkspaceBytes(params, num_splits), stream_));
    return Launched(
        kernels::DecodeAttentionCuda(params, plan.At<kernels::DecodeSplit>(arrays.splits),
                                     num_splits, plan.At<kernels::DecodeRow>(arrays.decode_rows),
                                     static_cast<int32_t>(arrays.decode_rows.count),
                                     decode_workspace_.data(), stream()),
        "decode_attention", absl::StrCat(num_splits, " splits, ", SizesOf(plan, kv)));
  }

  std::vector<absl::StatusOr<GeneratedToken>> Sample(std::span<const SampleRow> rows) override {
    if (const absl::Status entered = Enter(); !entered.ok()) {
      return std::vector<absl::StatusOr<GeneratedToken>>(rows.size(), entered);
    }
    return sampling_.Sample(rows, stream_);
  }

  std::vector<absl::StatusOr<GeneratedToken>> Logprobs(std::span<const LogprobsRow> rows) override {
    if (const absl::Status entered = Enter(); !entered.ok()) {
      return std::vector<absl::StatusOr<GeneratedToken>>(rows.size(), entered);
    }
    return sampling_.Logprobs(rows, stream_);
  }

 private:
  CudaBackend(int device, const CudaOptions& options) : device_(device), options_(options) {}

  absl::Status Open() {
    RETURN_IF_ERROR(Enter());
    cudaDeviceProp properties;
    RETURN_IF_ERROR(CudaStatus(cudaGetDeviceProperties(&properties, device_), "its properties"));
    name_ = properties.name;
    RETURN_IF_ERROR(lanes_.Open());
    stream_ = lanes_.StreamOf(Lane::kOps);
    gemm_ = kernels::GemmCuda::Create();
    if (gemm_ == nullptr) {
      return absl::FailedPreconditionError("cuBLASLt or memory for its workspace cannot be had");
    }
    return absl::OkStatus();
  }

  // Makes the device the current one of the thread that calls now, once a thread.
  cudaError_t EnterDevice() const {
    if (thread_ == std::this_thread::get_id()) return cudaSuccess;
    const cudaError_t error = cudaSetDevice(device_);
    if (error == cudaSuccess) thread_ = std::this_thread::get_id();
    return error;
  }
  absl::Status Enter() const {
    const cudaError_t error = EnterDevice();
    if (error == cudaSuccess) return absl::OkStatus();
    return CudaStatus(error, absl::StrCat("using CUDA device ", device_));
  }

  static kernels::GemmCudaParams Product(TensorView x, const LinearWeight& linear, TensorView y,
                                         bool adds) {
    const bool fp32 = y.dtype == DType::kFloat32;
    return {.x = Bf16(x),
            .weight = Bf16(linear.weight),
            .bias = Bf16(linear.bias),
            .m = x.rows,
            .n = linear.weight.rows,
            .k = linear.weight.cols,
            .adds = adds,
            .y = fp32 ? nullptr : Bf16(y),
            .y_fp32 = fp32 ? y.f32() : nullptr};
  }

  // A linear layer; or adds its product to y.
  absl::Status Multiply(TensorView x, const LinearWeight& linear, TensorView y, bool adds) {
    RETURN_IF_ERROR(Enter());
    const kernels::GemmCudaParams params = Product(x, linear, y, adds);
    if (params.n % 8 != 0 || params.k % 8 != 0) {
      return absl::UnimplementedError(
          absl::StrCat("gemm(", Sizes(x, linear.weight),
                       "): outputs and inputs of a linear layer must be multiples of 8"));
    }
    return Launched(gemm_->Run(params, stream()), "gemm", Sizes(x, linear.weight));
  }

  static std::string SizesOf(const CudaRowPlan& plan, const KvLayer& kv) {
    return absl::StrCat(plan.rows().num_rows(), " rows, ", kv.shape.num_kv_heads,
                        " KV heads, head_dim ", kv.shape.head_dim, ", ",
                        kv.shape.dtype == KvDType::kBFloat16 ? "bf16" : "fp32", ", ", kv.num_blocks,
                        " blocks, chunk_len ", plan.chunk_len());
  }

  kernels::DeviceStream stream() const { return {stream_, chained_}; }

  const int device_;
  const CudaOptions options_;
  mutable std::thread::id thread_;  // that called last
  std::string name_;
  CudaLanes lanes_;
  cudaStream_t stream_ = nullptr;  // of ops
  bool chained_ = false;           // within a decode step's Repeat
  std::unique_ptr<kernels::GemmCuda> gemm_;
  UploadBuffer uploads_[2];
  int next_upload_ = 0;
  GrowingDeviceBuffer decode_workspace_;
  CudaGraphs graphs_;
  CudaSampling sampling_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(int device, const CudaOptions& options) {
  return CudaBackend::Create(device, options);
}

}  // namespace longhaul::worker::backend
