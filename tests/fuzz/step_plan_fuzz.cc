// A StepPlan or StepDone message of foreign bytes: refused, or it is within the limits of the wire,
// and goes back onto the wire and over it unchanged.
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <string>
#include <string_view>

#include "common/logging.h"
#include "longhaul/v1/rank.pb.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "worker/step_plan_wire.h"

namespace longhaul::worker {
namespace {

// Map entries in order, so that equal messages have equal bytes.
std::string Bytes(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  CHECK(message.SerializeToCodedStream(&coded));
  coded.Trim();
  return bytes;
}

void CheckIds(const std::vector<int32_t>& ids) {
  for (const int32_t id : ids) CHECK(id >= 0) << id;
}

void CheckRanges(const StepPlan& plan) {
  for (const SequenceStart& start : plan.starts) {
    const SamplingParams& p = start.sampling;
    CHECK(start.prompt_tokens > 0 && start.min_tokens >= 0);
    CHECK(p.temperature >= 0 && p.temperature <= 2 && p.top_p > 0 && p.top_p <= 1 && p.top_k >= 0);
    CHECK(p.repetition_penalty > 0 && p.repetition_penalty <= 10) << p.repetition_penalty;
    CHECK(p.prompt_logprobs.value_or(0) >= 0 && p.prompt_logprobs.value_or(0) <= 20);
    CheckIds(start.cached_prompt_ids);
    CheckIds(start.replayed_output_ids);
    CheckIds(start.end_token_ids);
  }
  for (const KvMove& move : plan.moves) {
    CHECK(move.from != move.to && move.from_index <= INT32_MAX && move.to_index <= INT32_MAX);
  }
  for (const Unit& unit : plan.units) {
    CHECK(0 <= unit.layer_begin && unit.layer_begin < unit.layer_end) << unit.layer_end;
    CHECK(!unit.slices.empty());
    for (const Slice& slice : unit.slices) {
      CHECK(slice.begin >= 0 && slice.first_table_entry >= 0 && !slice.token_ids.empty());
      CHECK(slice.begin + static_cast<int64_t>(slice.token_ids.size()) <= INT32_MAX);
      CheckIds(slice.token_ids);
      CheckIds(slice.new_block_ids);
      CHECK(slice.next_prompt_token.value_or(0) >= 0);
    }
  }
}

void CheckRanges(const StepResult& result) {
  for (const SampledToken& sampled : result.sampled) CHECK(sampled.token.token >= 0);
  for (const int32_t move : result.failed_moves) CHECK(move >= 0) << move;
  for (const SequencePromptLogprobs& part : result.prompt_logprobs) {
    CHECK(part.begin > 0 && !part.tokens.empty()) << part.begin;
    CHECK(part.begin + static_cast<int64_t>(part.tokens.size()) <= INT32_MAX) << part.begin;
    for (const GeneratedToken& token : part.tokens) {
      CHECK(token.token >= 0 && token.logprob.has_value()) << token.token;
    }
  }
}

template <typename Message>
void Check(std::string_view bytes) {
  Message message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  const auto value = FromProto(message);
  if (!value.ok()) {
    CHECK(absl::IsInvalidArgument(value.status()) || absl::IsUnimplemented(value.status()))
        << value.status();
    CHECK(!value.status().message().empty());
    return;
  }
  CheckRanges(*value);

  Message first;
  ToProto(*value, &first);
  const std::string wire = Bytes(first);
  Message arrived;
  CHECK(arrived.ParseFromString(wire));
  const auto again = FromProto(arrived);
  CHECK(again.ok()) << again.status();
  Message second;
  ToProto(*again, &second);
  CHECK(Bytes(second) == wire) << first.ShortDebugString() << " became "
                               << second.ShortDebugString();
}

}  // namespace
}  // namespace longhaul::worker

// First byte: which message; the rest is its bytes.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longhaul::fuzz::FuzzInput input(data, size);
  const bool is_plan = input.Below(4) != 0;
  const std::string_view bytes = input.Rest();
  if (is_plan) {
    longhaul::worker::Check<longhaul::v1::StepPlan>(bytes);
  } else {
    longhaul::worker::Check<longhaul::v1::StepDone>(bytes);
  }
  return 0;
}
