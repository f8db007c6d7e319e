#pragma once

#include <nccl.h>

#include <optional>

// The functions of NCCL and of CUDA's runtime that NcclCommunicator and its tests call, on host
// memory: what our code makes of them can be tested where there is no device.
//
// Ranks are threads with a device each (four of them); a stream is a thread that does what it is
// given in order. Where NCCL leaves things undefined this ends the process: calls at the same time
// on one communicator, a call while the one before is in progress, tensors that differ; a use after
// Abort is one of freed memory. As with NCCL between the devices of a host, a rank hears nothing of
// its peers' end.
namespace longhaul::testing {

// What the communicators of this process say when asked how their last call went, until nullopt is
// set. Thread-safe, as are all functions here.
void SetNcclAsyncResult(std::optional<ncclResult_t> result);

// Communicators that were made and not aborted yet.
int LiveNcclCommunicators();

}  // namespace longhaul::testing
