#pragma once

#include "absl/status/statusor.h"
#include "common/sampling_params.h"
#include "longhaul/v1/rank.pb.h"
#include "worker/step_plan.h"

namespace longhaul::worker {

// StepPlan and StepResult to and from their messages of rank.proto: pure functions, thread-safe.
//
// FromProto trusts nothing: what comes out holds numbers that are in range by themselves (ids >= 0,
// positions below 2^31, counts within the limits below, sampling parameters within common's ranges,
// every field of Sampling present). It does not know the model or the rank's state: whether a token
// is in the vocabulary, a sequence exists or a block is free is checked by the executor.
// Errors: kInvalidArgument names field, value and limit.
inline constexpr int kMaxUnitsPerStep = 4096;
inline constexpr int kMaxSlicesPerUnit = 65536;
inline constexpr int kMaxSequencesPerStep = 65536;  // starts, and ends
inline constexpr int kMaxMovesPerStep = 65536;
inline constexpr int64_t kMaxTokensPerUnit = int64_t{1} << 22;

void ToProto(const StepPlan& plan, v1::StepPlan* proto);
absl::StatusOr<StepPlan> FromProto(const v1::StepPlan& proto);

void ToProto(const StepResult& result, v1::StepDone* proto);
absl::StatusOr<StepResult> FromProto(const v1::StepDone& proto);

// Parts that the Worker wire shares. top_logprobs and prompt_logprobs travel apart from Sampling.
void ToProto(const SamplingParams& params, v1::Sampling* proto);
absl::StatusOr<SamplingParams> FromProto(const v1::Sampling& proto);
void ToProto(const GeneratedToken& token, v1::GeneratedToken* proto);
absl::StatusOr<GeneratedToken> FromProto(const v1::GeneratedToken& proto);
// An optional number of alternatives, 0..20, of top_logprobs or prompt_logprobs.
absl::StatusOr<int32_t> NumLogprobs(const char* field, uint32_t value);

}  // namespace longhaul::worker
