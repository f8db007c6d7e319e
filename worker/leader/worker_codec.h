#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/types.h"
#include "longhaul/v1/worker.pb.h"
#include "worker/leader/event_log.h"
#include "worker/leader/load_board.h"
#include "worker/leader/request.h"

namespace longhaul::worker::leader {

// Who this leader serves as: what Hello says and headers are checked against. Value.
struct ServedModel {
  std::string name;
  Digest digest;
  Digest prefix_root;
  int32_t prefix_root_max_tokens = 0;  // longer prompts have another; 0 = none has
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;
  int32_t kv_blocks = 0;
  int32_t max_waiting_long = 0;
  int32_t long_prompt_tokens = 0;
  int32_t max_prompt_logprobs_tokens = 0;  // length of a prompt whose logprobs may be asked for
  int32_t tensor_parallel_size = 1;
  int32_t pipeline_parallel_size = 1;
};

// The Worker wire to and from our structs: pure functions.

// A header as a request without its prompt; deadline counts from `now`. kInvalidArgument names the
// field, its value and the limit; kNotFound: another model; kFailedPrecondition: another digest.
absl::StatusOr<Request> FromProto(const v1::ExecuteHeader& header, const ServedModel& model,
                                  absl::Time now);
RequestId FromProto(const v1::RequestId& id);
v1::ExecuteEvent ToProto(const Event& event, uint64_t number);
v1::Hello ToHello(const ServedModel& model, uint64_t incarnation);
v1::Load ToProto(const Load& load, uint64_t sequence);
v1::CacheDelta ToProto(bool reset, std::span<const Digest> added, std::span<const Digest> removed,
                       uint64_t sequence);

}  // namespace longhaul::worker::leader
