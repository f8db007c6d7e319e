#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "common/clock.h"
#include "longhaul/v1/worker.pb.h"
#include "worker/leader/call_ticker.h"
#include "worker/leader/engine.h"
#include "worker/leader/request_table.h"
#include "worker/leader/worker_codec.h"

namespace longhaul::worker::leader {

// What the calls of one server share. All borrowed, thread-safe, and outliving the calls.
struct CallContext {
  const ServedModel& model;
  Engine& engine;
  RequestTable& requests;
  LoadBoard& board;
  CallTicker& ticker;
  const Clock& clock;
  // Calls that are open, and prompt tokens of those whose request the engine has not answered yet.
  std::atomic<int32_t> open_calls = 0;
  std::atomic<int64_t> prompt_tokens_in_transit = 0;
};

// Calls of all kinds at the same time; more are refused. Far below what the engine's queue
// reserves.
inline constexpr int32_t kMaxOpenCalls = 4096;
// Tokens of prompts that arrive or wait for the engine: 64 MiB of ids. More are sent elsewhere.
inline constexpr int64_t kMaxPromptTokensInTransit = 16 << 20;
// Serialised, of one PromptChunk.
inline constexpr size_t kMaxPromptChunkBytes = 256 << 10;

// Reactors that delete themselves; `context` is gRPC's.
grpc::ServerBidiReactor<v1::ExecuteRequest, v1::ExecuteEvent>* NewExecuteCall(
    CallContext& shared, grpc::CallbackServerContext* context);
grpc::ServerWriteReactor<v1::ExecuteEvent>* NewAttachCall(CallContext& shared,
                                                          grpc::CallbackServerContext* context,
                                                          const v1::AttachRequest& request);

}  // namespace longhaul::worker::leader
