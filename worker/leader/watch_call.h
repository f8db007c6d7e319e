#pragma once

#include <grpcpp/grpcpp.h>

#include "longhaul/v1/worker.pb.h"
#include "worker/leader/execute_call.h"

namespace longhaul::worker::leader {

// One Watch: Hello once the ranks are up, then a Load with each change of the board and at least
// once a second; the call ends with the incarnation. Loads that come while a write is on its way
// are joined to the newest. Deletes itself.
grpc::ServerWriteReactor<v1::WatchEvent>* NewWatchCall(CallContext& shared,
                                                       const v1::WatchRequest& request);

}  // namespace longhaul::worker::leader
