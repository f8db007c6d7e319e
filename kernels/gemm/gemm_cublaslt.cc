#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "kernels/gemm/gemm_cuda.h"
#include "kernels/gemm/gemv_cuda.h"

namespace longhaul::kernels {
namespace {

// From so many rows on, one algorithm for every number of rows, chosen for kReferenceRows.
constexpr int64_t kManyRows = 128;
constexpr int64_t kReferenceRows = 8192;
constexpr int kMaxCandidates = 32;
// Kernels that deal out their tiles as they go count them in the workspace, in 4 bytes.
constexpr size_t kCounterBytes = 256;
// What the contract promises of every pointer, so that no algorithm hangs on more.
constexpr uint32_t kAlignmentBytes = 16;

bool Ok(cublasStatus_t status) { return status == CUBLAS_STATUS_SUCCESS; }

// What an algorithm is chosen for.
struct Shape {
  int64_t n;
  int64_t k;
  int64_t rows;  // 0 = kManyRows or more, else the power of two, above kMaxGemvRows, that M fits in
  bool fp32_output;
  bool has_bias;
  auto operator<=>(const Shape&) const = default;
};

Shape ShapeOf(const GemmCudaParams& p) {
  const auto power = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(p.m)));
  return {p.n, p.k, p.m >= kManyRows ? 0 : power, p.y_fp32 != nullptr, p.bias != nullptr};
}

// cuBLASLt's view of a row-major product, column-major: y^T [N, M] = (weight^T [K, N])^T x^T [K,
// M]. Its descriptors live here: nothing is allocated.
class Product {
 public:
  // False if cuBLASLt refuses the sizes.
  bool Init(int64_t m, int64_t n, int64_t k, bool fp32_output, bool has_bias) {
    const cudaDataType_t output = fp32_output ? CUDA_R_32F : CUDA_R_16BF;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue =
        has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    const auto rows = static_cast<uint64_t>(n);
    const auto columns = static_cast<uint64_t>(m);
    const auto depth = static_cast<uint64_t>(k);
    return Ok(cublasLtMatmulDescInit(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
           Set(CUBLASLT_MATMUL_DESC_TRANSA, transposed) &&
           Set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue) &&
           Ok(cublasLtMatrixLayoutInit(&weight_, CUDA_R_16BF, depth, rows, k)) &&
           Ok(cublasLtMatrixLayoutInit(&x_, CUDA_R_16BF, depth, columns, k)) &&
           Ok(cublasLtMatrixLayoutInit(&y_, output, rows, columns, n));
  }
  bool SetBias(const void* bias) { return Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias); }

  // The library's candidates, best first, by `preference`.
  int Candidates(cublasLtHandle_t handle, cublasLtMatmulPreference_t preference,
                 std::span<cublasLtMatmulHeuristicResult_t> results) {
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, &operation_, &weight_, &x_, &y_, &y_, preference,
                                       static_cast<int>(results.size()), results.data(), &found);
    return Ok(status) ? found : 0;
  }
  // The workspace that `algorithm` needs for these sizes; nothing if it does not do them.
  std::optional<size_t> WorkspaceBytes(cublasLtHandle_t handle,
                                       const cublasLtMatmulAlgo_t& algorithm) {
    cublasLtMatmulHeuristicResult_t result = {};
    const cublasStatus_t status =
        cublasLtMatmulAlgoCheck(handle, &operation_, &weight_, &x_, &y_, &y_, &algorithm, &result);
    if (!Ok(status)) return std::nullopt;
    return result.workspaceSize;
  }
  bool Run(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm, const GemmCudaParams& p,
           void* workspace, size_t workspace_bytes, cudaStream_t stream) {
    const float one = 1;
    const float kept = p.adds ? 1 : 0;  // of y
    void* const y = p.y != nullptr ? static_cast<void*>(p.y) : p.y_fp32;
    return Ok(cublasLtMatmul(handle, &operation_, &one, p.weight, &weight_, p.x, &x_, &kept, y, &y_,
                             y, &y_, &algorithm, workspace, workspace_bytes, stream));
  }

 private:
  template <typename T>
  bool Set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    return Ok(cublasLtMatmulDescSetAttribute(&operation_, attribute, &value, sizeof(value)));
  }

  cublasLtMatmulDescOpaque_t operation_ = {};
  cublasLtMatrixLayoutOpaque_t weight_ = {};
  cublasLtMatrixLayoutOpaque_t x_ = {};
  cublasLtMatrixLayoutOpaque_t y_ = {};
};

template <typename T>
std::optional<T> Config(const cublasLtMatmulAlgo_t& algorithm,
                        cublasLtMatmulAlgoConfigAttributes_t attribute) {
  T value = {};
  size_t written = 0;
  if (!Ok(cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof(value),
                                               &written))) {
    return std::nullopt;
  }
  return value;
}

// Each sum over K in one piece.
bool SumsInOnePiece(const cublasLtMatmulAlgo_t& algorithm) {
  const auto splits = Config<int32_t>(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
  const auto scheme = Config<uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
  return splits.has_value() && (*splits == 0 || *splits == 1) &&
         scheme == uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE};
}

class CublasLtGemm final : public GemmCuda {
 public:
  CublasLtGemm() = default;
  ~CublasLtGemm() override {
    cudaFree(workspace_);
    if (handle_ != nullptr) cublasLtDestroy(handle_);
  }
  CublasLtGemm(const CublasLtGemm&) = delete;
  CublasLtGemm& operator=(const CublasLtGemm&) = delete;

  bool Init() {
    return Ok(cublasLtCreate(&handle_)) &&
           cudaMalloc(&workspace_, kGemmCudaWorkspaceBytes) == cudaSuccess;
  }

  KernelStatus Prepare(const GemmCudaParams& p) override {
    const KernelStatus valid = Check(p);
    if (valid != KernelStatus::kOk || p.m <= kMaxGemvRows) return valid;
    return Find(ShapeOf(p)) == nullptr ? KernelStatus::kLibraryFailure : KernelStatus::kOk;
  }

  KernelStatus Run(const GemmCudaParams& p, DeviceStream stream) override {
    const KernelStatus valid = Check(p);
    if (valid != KernelStatus::kOk || p.m == 0) return valid;
    if (p.x == nullptr || p.weight == nullptr) return KernelStatus::kInvalidArgument;
    if (p.m <= kMaxGemvRows) return GemvCuda(p, stream);
    const cublasLtMatmulAlgo_t* algorithm = Find(ShapeOf(p));
    Product product;
    if (algorithm == nullptr ||
        !product.Init(p.m, p.n, p.k, p.y_fp32 != nullptr, p.bias != nullptr) ||
        (p.bias != nullptr && !product.SetBias(p.bias)) ||
        !product.Run(handle_, *algorithm, p, workspace_, kGemmCudaWorkspaceBytes,
                     static_cast<cudaStream_t>(stream.handle))) {
      return KernelStatus::kLibraryFailure;
    }
    return KernelStatus::kOk;
  }

 private:
  static bool Aligned(const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % kAlignmentBytes == 0;
  }

  static KernelStatus Check(const GemmCudaParams& p) {
    if (p.m < 0 || p.n < 1 || p.k < 1 || p.n % 8 != 0 || p.k % 8 != 0 ||
        (p.y == nullptr) == (p.y_fp32 == nullptr) || !Aligned(p.x) || !Aligned(p.weight) ||
        !Aligned(p.bias) || !Aligned(p.y) || !Aligned(p.y_fp32)) {
      return KernelStatus::kInvalidArgument;
    }
    // The library has no bf16 bias for an fp32 output, and nobody adds both.
    if (p.bias != nullptr && (p.y_fp32 != nullptr || p.adds)) return KernelStatus::kUnimplemented;
    return KernelStatus::kOk;
  }

  // Null if the library has none.
  const cublasLtMatmulAlgo_t* Find(const Shape& shape) {
    const auto known = algorithms_.find(shape);
    if (known != algorithms_.end()) return &known->second;
    const std::optional<cublasLtMatmulAlgo_t> chosen = Choose(shape);
    if (!chosen.has_value()) return nullptr;
    return &algorithms_.emplace(shape, *chosen).first->second;
  }

  // The library's first candidate that serves all numbers of rows of the shape. Nothing is timed:
  // every process with this library on this kind of device chooses the same.
  std::optional<cublasLtMatmulAlgo_t> Choose(const Shape& shape) {
    const bool many = shape.rows == 0;
    // Where there is no room for partial sums, there is neither split-K nor stream-K, whose cuts
    // would move with M. Few rows may be split: weights are then read by more SMs. Their partial
    // sums stay fp32.
    const size_t limit = many ? kCounterBytes : kGemmCudaWorkspaceBytes;
    const uint32_t schemes =
        many ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasLtMatmulPreferenceOpaque_t preference = {};
    if (!Ok(cublasLtMatmulPreferenceInit(&preference)) ||
        !Prefer(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{limit}) ||
        !Prefer(&preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes)) {
      return std::nullopt;
    }
    for (const auto matrix :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      if (!Prefer(&preference, matrix, kAlignmentBytes)) return std::nullopt;
    }

    Product reference;
    if (!reference.Init(many ? kReferenceRows : shape.rows, shape.n, shape.k, shape.fp32_output,
                        shape.has_bias)) {
      return std::nullopt;
    }
    std::array<cublasLtMatmulHeuristicResult_t, kMaxCandidates> results = {};
    const int found = reference.Candidates(handle_, &preference, results);
    for (int i = 0; i < found; ++i) {
      const cublasLtMatmulAlgo_t& candidate = results[i].algo;
      if (!Ok(results[i].state) || (many && !SumsInOnePiece(candidate))) continue;
      if (ServesAllRows(shape, candidate, limit)) return candidate;
    }
    return std::nullopt;
  }

  template <typename T>
  static bool Prefer(cublasLtMatmulPreference_t preference,
                     cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    return Ok(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
  }

  bool ServesAllRows(const Shape& shape, const cublasLtMatmulAlgo_t& algorithm, size_t limit) {
    static constexpr int64_t kManyProbes[] = {128, 129, 1000, 8192, 32768, 131071};
    const int64_t few_probes[] = {shape.rows / 2 + 1, std::min(shape.rows, kManyRows - 1)};
    const auto serves = [&](int64_t rows) {
      Product product;
      if (!product.Init(rows, shape.n, shape.k, shape.fp32_output, shape.has_bias)) return false;
      const std::optional<size_t> bytes = product.WorkspaceBytes(handle_, algorithm);
      return bytes.has_value() && *bytes <= limit;
    };
    return shape.rows == 0 ? std::ranges::all_of(kManyProbes, serves)
                           : std::ranges::all_of(few_probes, serves);
  }

  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Shape, cublasLtMatmulAlgo_t> algorithms_;
};

}  // namespace

std::unique_ptr<GemmCuda> GemmCuda::Create() {
  auto gemm = std::make_unique<CublasLtGemm>();
  if (!gemm->Init()) return nullptr;
  return gemm;
}

}  // namespace longhaul::kernels
