#include <dlfcn.h>
#include <nccl.h>

// The functions of NCCL that we call, each handed on to the library, which is loaded at the first
// call: linked in the usual way it would be needed by every rank, also on a host without a GPU.
//
// Where the library or a function of it is not found, calls return ncclSystemError and the text of
// every error says so.

namespace {

#define LONGHAUL_TEXT_OF(x) #x
#define LONGHAUL_TEXT(x) LONGHAUL_TEXT_OF(x)
#define LONGHAUL_LIBRARY "libnccl.so." LONGHAUL_TEXT(NCCL_MAJOR)

template <typename Function>
Function* Find(const char* name) {
  static void* const library = dlopen(LONGHAUL_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  return library == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(library, name));
}

constexpr const char* kNotFound = LONGHAUL_LIBRARY " cannot be loaded, or lacks a function";

}  // namespace

#define LONGHAUL_FORWARD_AS(result, missing, name, parameters, arguments) \
  result name parameters {                                                \
    static auto* const function = Find<result parameters>(#name);         \
    return function == nullptr ? missing : function arguments;            \
  }
#define LONGHAUL_FORWARD(name, parameters, arguments) \
  LONGHAUL_FORWARD_AS(ncclResult_t, ncclSystemError, name, parameters, arguments)

extern "C" {

LONGHAUL_FORWARD_AS(const char*, kNotFound, ncclGetErrorString, (ncclResult_t result), (result))
LONGHAUL_FORWARD_AS(const char*, kNotFound, ncclGetLastError, (ncclComm_t comm), (comm))

LONGHAUL_FORWARD(ncclGetUniqueId, (ncclUniqueId * id), (id))
LONGHAUL_FORWARD(ncclCommInitRankConfig,
                 (ncclComm_t * comm, int size, ncclUniqueId id, int rank, ncclConfig_t* config),
                 (comm, size, id, rank, config))
LONGHAUL_FORWARD(ncclCommAbort, (ncclComm_t comm), (comm))
LONGHAUL_FORWARD(ncclCommGetAsyncError, (ncclComm_t comm, ncclResult_t* result), (comm, result))
LONGHAUL_FORWARD(ncclSend,
                 (const void* src, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                  cudaStream_t stream),
                 (src, count, type, peer, comm, stream))
LONGHAUL_FORWARD(ncclRecv,
                 (void* dst, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                  cudaStream_t stream),
                 (dst, count, type, peer, comm, stream))
LONGHAUL_FORWARD(ncclBroadcast,
                 (const void* src, void* dst, size_t count, ncclDataType_t type, int root,
                  ncclComm_t comm, cudaStream_t stream),
                 (src, dst, count, type, root, comm, stream))
LONGHAUL_FORWARD(ncclAllReduce,
                 (const void* src, void* dst, size_t count, ncclDataType_t type, ncclRedOp_t op,
                  ncclComm_t comm, cudaStream_t stream),
                 (src, dst, count, type, op, comm, stream))

}  // extern "C"
