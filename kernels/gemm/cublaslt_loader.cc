#include <cublasLt.h>
#include <dlfcn.h>

// The functions of cuBLASLt that we call, each handed on to the library, which is loaded at the
// first call. Linked in the usual way it would be needed by every program that can use a GPU, also
// where there is none, and its 94 KB of thread-local memory would be taken from every thread's
// stack: more than the small ones of the metrics server have.
//
// Where the library or a function of it is not found, calls return CUBLAS_STATUS_NOT_INITIALIZED.

namespace {

#define LONGHAUL_TEXT_OF(x) #x
#define LONGHAUL_TEXT(x) LONGHAUL_TEXT_OF(x)

template <typename Function>
Function* Find(const char* name) {
  static void* const library =
      dlopen("libcublasLt.so." LONGHAUL_TEXT(CUBLAS_VER_MAJOR), RTLD_NOW | RTLD_LOCAL);
  return library == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(library, name));
}

}  // namespace

#define LONGHAUL_FORWARD(name, parameters, arguments)                                \
  cublasStatus_t name parameters {                                                   \
    static auto* const function = Find<cublasStatus_t parameters>(#name);            \
    return function == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : function arguments; \
  }

extern "C" {

LONGHAUL_FORWARD(cublasLtCreate, (cublasLtHandle_t * handle), (handle))
LONGHAUL_FORWARD(cublasLtDestroy, (cublasLtHandle_t handle), (handle))
LONGHAUL_FORWARD(cublasLtMatmulDescInit_internal,
                 (cublasLtMatmulDesc_t desc, size_t size, cublasComputeType_t compute,
                  cudaDataType_t scale),
                 (desc, size, compute, scale))
LONGHAUL_FORWARD(cublasLtMatmulDescSetAttribute,
                 (cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                  const void* value, size_t size),
                 (desc, attribute, value, size))
LONGHAUL_FORWARD(cublasLtMatrixLayoutInit_internal,
                 (cublasLtMatrixLayout_t layout, size_t size, cudaDataType type, uint64_t rows,
                  uint64_t cols, int64_t ld),
                 (layout, size, type, rows, cols, ld))
LONGHAUL_FORWARD(cublasLtMatmulPreferenceInit_internal,
                 (cublasLtMatmulPreference_t preference, size_t size), (preference, size))
LONGHAUL_FORWARD(cublasLtMatmulPreferenceSetAttribute,
                 (cublasLtMatmulPreference_t preference,
                  cublasLtMatmulPreferenceAttributes_t attribute, const void* value, size_t size),
                 (preference, attribute, value, size))
LONGHAUL_FORWARD(cublasLtMatmulAlgoGetHeuristic,
                 (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                  cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                  cublasLtMatmulPreference_t preference, int requested,
                  cublasLtMatmulHeuristicResult_t results[], int* found),
                 (handle, operation, a, b, c, d, preference, requested, results, found))
LONGHAUL_FORWARD(cublasLtMatmulAlgoCheck,
                 (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                  cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                  const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* result),
                 (handle, operation, a, b, c, d, algorithm, result))
LONGHAUL_FORWARD(cublasLtMatmulAlgoConfigGetAttribute,
                 (const cublasLtMatmulAlgo_t* algorithm,
                  cublasLtMatmulAlgoConfigAttributes_t attribute, void* value, size_t size,
                  size_t* written),
                 (algorithm, attribute, value, size, written))
LONGHAUL_FORWARD(cublasLtMatmul,
                 (cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha,
                  const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                  cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                  cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                  const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_size,
                  cudaStream_t stream),
                 (handle, operation, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d,
                  d_layout, algorithm, workspace, workspace_size, stream))

}  // extern "C"
