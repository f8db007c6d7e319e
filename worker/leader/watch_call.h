#pragma once

#include <grpcpp/grpcpp.h>

#include "longhaul/v1/worker.pb.h"
#include "worker/leader/execute_call.h"

namespace longhaul::worker::leader {

// One Watch: Hello once the ranks are up, then a Load with each change of the board and at least
// once a second, and the changes of the cached prefixes behind it; the call ends with the
// incarnation. Loads and changes that come while a write is on its way are joined. Deletes itself.
grpc::ServerWriteReactor<v1::WatchEvent>* NewWatchCall(CallContext& shared,
                                                       const v1::WatchRequest& request);

}  // namespace longhaul::worker::leader
