#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model_config.h"
#include "common/sampling_params.h"
#include "router/request.h"

// The one place where the ranges of a request are checked (proto/longhaul/v1/types.proto) and its
// gaps are filled. Pure functions; errors are InvalidField: kInvalidArgument naming field, value
// and limit.
namespace longhaul::router {

inline constexpr int64_t kMaxChoices = 16;
inline constexpr int32_t kDefaultMaxTokens = 8192;
inline constexpr int64_t kMaxTopLogprobs = 20;

// What the model and the router's settings set as limits, tokens.
struct RequestLimits {
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;               // prompt and output together
  int32_t max_prompt_logprobs_tokens = 0;  // longest prompt whose logprobs may be asked for
};

// Fields that need neither prompt nor model: choices, priority, the client's request id, echo.
absl::Status CheckRequestShape(const GenerateRequest& request);

// `drawn_seed` is used if the client left the seed open.
absl::StatusOr<SamplingParams> ResolveSampling(const SamplingOptions& options,
                                               const GenerationDefaults& defaults,
                                               const RequestLimits& limits, uint64_t drawn_seed);

// Checks the prompt's length too: it and max_tokens fit in max_model_len, and a prompt that fills
// the model's length is accepted only with max_tokens = 0 (prefill only), one above
// max_prompt_logprobs_tokens only without its logprobs.
absl::StatusOr<StopParams> ResolveStopping(const GenerateRequest& request,
                                           const RequestLimits& limits, int64_t prompt_tokens);

}  // namespace longhaul::router
