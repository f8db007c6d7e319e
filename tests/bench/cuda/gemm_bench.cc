// Linear layers of the 7B on a CUDA device: ours, whose algorithms are fixed, and as the peer what
// cuBLASLt itself chooses for each number of rows. A line of JSON a case (device_bench.h).
#include <cublasLt.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "kernels/gemm/gemm_cuda.h"
#include "tests/bench/cuda/device_bench.h"

namespace longhaul::bench {
namespace {

using kernels::BFloat16;
using kernels::DeviceStream;
using kernels::GemmCuda;
using kernels::GemmCudaParams;
using kernels::KernelStatus;

struct Layer {
  const char* name;
  int64_t n;
  int64_t k;
  bool has_bias = false;
  bool fp32_output = false;
};
constexpr Layer kLayers[] = {
    {"qkv", (kQueryHeads + 2 * kKvHeads) * kHeadDim, kHidden, /*has_bias=*/true},
    {"o", kHidden, kQueryHeads* kHeadDim},
    {"gate_up", 2 * kIntermediate, kHidden},
    {"down", kHidden, kIntermediate},
};
constexpr Layer kLogits = {"logits", kVocab, kHidden, /*has_bias=*/false, /*fp32_output=*/true};

void Check(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "%s failed\n", what);
  std::exit(1);
}
void Check(cublasStatus_t status, const char* what) {
  Check(status == CUBLAS_STATUS_SUCCESS, what);
}

// cuBLASLt's first answer for exactly this product: split-K and stream-K allowed.
class FreeGemm {
 public:
  FreeGemm() {
    Check(cublasLtCreate(&handle_), "cublasLtCreate");
    Check(cudaMalloc(&workspace_, kernels::kGemmCudaWorkspaceBytes) == cudaSuccess, "cudaMalloc");
  }
  ~FreeGemm() {
    cudaFree(workspace_);
    cublasLtDestroy(handle_);
  }
  FreeGemm(const FreeGemm&) = delete;
  FreeGemm& operator=(const FreeGemm&) = delete;

  KernelStatus Run(const GemmCudaParams& p, DeviceStream stream) {
    const auto rows = static_cast<uint64_t>(p.n);
    const auto columns = static_cast<uint64_t>(p.m);
    const auto depth = static_cast<uint64_t>(p.k);
    const cudaDataType_t output = p.y_fp32 != nullptr ? CUDA_R_32F : CUDA_R_16BF;
    void* const y = p.y_fp32 != nullptr ? static_cast<void*>(p.y_fp32) : p.y;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtMatmulDescOpaque_t operation = {};
    cublasLtMatrixLayoutOpaque_t weight_layout = {};
    cublasLtMatrixLayoutOpaque_t x_layout = {};
    cublasLtMatrixLayoutOpaque_t y_layout = {};
    Check(cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "operation");
    Check(cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                         sizeof(transposed)),
          "transposition");
    if (p.bias != nullptr) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      const void* const bias = p.bias;
      Check(cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                           sizeof(epilogue)),
            "epilogue");
      Check(cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                           sizeof(bias)),
            "bias");
    }
    Check(cublasLtMatrixLayoutInit(&weight_layout, CUDA_R_16BF, depth, rows, p.k), "weight");
    Check(cublasLtMatrixLayoutInit(&x_layout, CUDA_R_16BF, depth, columns, p.k), "x");
    Check(cublasLtMatrixLayoutInit(&y_layout, output, rows, columns, p.n), "y");
    cublasLtMatmulPreferenceOpaque_t preference = {};
    const uint64_t limit = kernels::kGemmCudaWorkspaceBytes;
    Check(cublasLtMatmulPreferenceInit(&preference), "preference");
    Check(cublasLtMatmulPreferenceSetAttribute(
              &preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit, sizeof(limit)),
          "workspace preference");
    cublasLtMatmulHeuristicResult_t chosen = {};
    int found = 0;
    Check(cublasLtMatmulAlgoGetHeuristic(handle_, &operation, &weight_layout, &x_layout, &y_layout,
                                         &y_layout, &preference, 1, &chosen, &found),
          "heuristic");
    Check(found == 1, "heuristic");
    const float one = 1;
    const float zero = 0;
    Check(cublasLtMatmul(handle_, &operation, &one, p.weight, &weight_layout, p.x, &x_layout, &zero,
                         y, &y_layout, y, &y_layout, &chosen.algo, workspace_, limit,
                         static_cast<cudaStream_t>(stream.handle)),
          "cublasLtMatmul");
    return KernelStatus::kOk;
  }

 private:
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
};

template <typename Gemm>
void LayerCase(DeviceBench& bench, Gemm& gemm, const char* op, const Layer& layer, int64_t m,
               cudaStream_t warm_up) {
  const int64_t output_bytes = layer.fp32_output ? 4 : 2;
  const std::string shape = std::string(layer.name) + " M=" + std::to_string(m) +
                            " N=" + std::to_string(layer.n) + " K=" + std::to_string(layer.k);
  const int64_t bytes = 2 * (layer.n + m) * layer.k + output_bytes * m * layer.n;
  const double flops = 2.0 * static_cast<double>(m) * static_cast<double>(layer.n * layer.k);
  bench.Run({op, shape, bytes, flops}, [&](int call) {
    GemmCudaParams p = {.x = bench.Take<BFloat16>(m * layer.k),
                        .weight = bench.Take<BFloat16>(layer.n * layer.k),
                        .m = m,
                        .n = layer.n,
                        .k = layer.k};
    if (layer.has_bias) p.bias = bench.Take<BFloat16>(layer.n);
    if (layer.fp32_output) {
      p.y_fp32 = bench.Take<float>(m * layer.n);
    } else {
      p.y = bench.Take<BFloat16>(m * layer.n);
    }
    if (call == 0) {  // its code is loaded before a graph is captured
      Check(gemm.Run(p, {warm_up}) == KernelStatus::kOk, shape.c_str());
      Check(cudaStreamSynchronize(warm_up) == cudaSuccess, shape.c_str());
    }
    return [&gemm, p](DeviceStream stream) { return gemm.Run(p, stream); };
  });
}

int Main() {
  const std::unique_ptr<DeviceBench> bench = DeviceBench::Create();
  if (bench == nullptr) {
    std::puts("no CUDA device");
    return 0;
  }
  const std::unique_ptr<GemmCuda> gemm = GemmCuda::Create();
  Check(gemm != nullptr, "GemmCuda::Create");
  FreeGemm peer;
  cudaStream_t warm_up = nullptr;
  Check(cudaStreamCreateWithFlags(&warm_up, cudaStreamNonBlocking) == cudaSuccess, "stream");
  const auto both = [&](const Layer& layer, int64_t m) {
    LayerCase(*bench, *gemm, "gemm", layer, m, warm_up);
    LayerCase(*bench, peer, "gemm_peer_cublaslt", layer, m, warm_up);
  };
  for (const int64_t m : {32768, 8192, 2048, 512, 128, 64, 8, 2, 1}) {
    for (const Layer& layer : kLayers) both(layer, m);
  }
  for (const int64_t m : {64, 8, 2, 1}) both(kLogits, m);
  cudaStreamDestroy(warm_up);
  return 0;
}

}  // namespace
}  // namespace longhaul::bench

int main() { return longhaul::bench::Main(); }
