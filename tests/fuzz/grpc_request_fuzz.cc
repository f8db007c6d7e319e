// The bytes of a gRPC request: refused with an error that names what is wrong, exactly where
// protobuf refuses them too; or a request that is refused as a client can read, or in range.
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "common/logging.h"
#include "common/text/utf8.h"
#include "longhaul/v1/inference.pb.h"
#include "router/error_detail.h"
#include "router/prepare_request.h"
#include "router/rpc/grpc_codec.h"
#include "router/rpc/request_parser.h"
#include "tests/fuzz/embedded.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/tokenizer_json.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::router::rpc {
namespace {

constexpr RequestLimits kLimits{
    .vocab_size = 300, .max_model_len = 4096, .max_prompt_logprobs_tokens = 100};

const ServedModel& TheModel() {
  static const ServedModel model = [] {
    const testing::TempDir folder;
    folder.Write("tokenizer.json", fuzz::SmallTokenizerJson());
    folder.Write("tokenizer_config.json", fuzz::kTokenizerConfig);
    auto tokenizer = text::Tokenizer::Load(folder.path());
    CHECK(tokenizer.ok()) << tokenizer.status();
    auto chat_template = text::ChatTemplate::Load(folder.path());
    CHECK(chat_template.ok()) << chat_template.status();
    return ServedModel{.name = "demo",
                       .tokenizer = *std::move(tokenizer),
                       .chat_template = *std::move(chat_template),
                       .defaults = {},
                       .vocab_size = kLimits.vocab_size,
                       .max_model_len = kLimits.max_model_len};
  }();
  return model;
}

bool IsUtf8(std::string_view text) { return text::FindInvalidUtf8(text) == std::string_view::npos; }

// A refusal is the client's fault. It is short, as headers are, and its trailer can be read.
void CheckRefusal(const absl::Status& status) {
  CHECK(absl::IsInvalidArgument(status)) << status;
  CHECK(!status.message().empty() && status.message().size() < 1024) << status;
  CHECK(IsUtf8({status.message().data(), status.message().size()})) << status;
  v1::ErrorDetail detail;
  CHECK(detail.ParseFromString(ErrorDetailTrailer(status))) << status;
  CHECK(detail.field().size() < 256) << detail.field();
}

void CheckPrepared(const PreparedRequest& prepared) {
  CHECK(!prepared.prompt->empty() && prepared.prompt->size() <= size_t{4096});
  for (const TokenId id : *prepared.prompt) CHECK(id >= 0 && id < kLimits.vocab_size) << id;
  const SamplingParams& p = prepared.sampling;
  CHECK(p.temperature >= 0 && p.temperature <= 2) << p.temperature;
  CHECK(p.top_p > 0 && p.top_p <= 1) << p.top_p;
  CHECK(p.top_k >= 0 && p.top_k <= kLimits.vocab_size) << p.top_k;
  CHECK(p.min_p >= 0 && p.min_p <= 1) << p.min_p;
  CHECK(p.repetition_penalty > 0 && p.repetition_penalty <= 10) << p.repetition_penalty;
  CHECK(std::abs(p.presence_penalty) <= 2 && std::abs(p.frequency_penalty) <= 2);
  for (const auto& [id, bias] : p.logit_bias) {
    CHECK(id >= 0 && id < kLimits.vocab_size && std::abs(bias) <= 100) << id << " " << bias;
  }
  for (const auto& count : {p.top_logprobs, p.prompt_logprobs}) {
    CHECK(count.value_or(0) >= 0 && count.value_or(0) <= kMaxTopLogprobs);
  }
  const auto room = kLimits.max_model_len - static_cast<int64_t>(prepared.prompt->size());
  CHECK(prepared.stop.max_tokens >= 0 && prepared.stop.max_tokens <= room);
  CHECK(prepared.stop.min_tokens >= 0 && prepared.stop.min_tokens <= prepared.stop.max_tokens);
  for (const TokenId id : prepared.stop.stop_token_ids) {
    CHECK(id >= 0 && id < kLimits.vocab_size) << id;
  }
  CHECK(prepared.num_choices >= 1 && prepared.num_choices <= kMaxChoices);
  CHECK(std::abs(prepared.priority) <= 100) << prepared.priority;
  for (const std::string& stop : prepared.stop_strings) CHECK(!stop.empty() && IsUtf8(stop));
}

void CheckGeneration(absl::StatusOr<GenerateRequest> request) {
  if (!request.ok()) return CheckRefusal(request.status());
  CHECK(IsUtf8(request->model) && !request->client_request_id.empty());
  CheckRefusal(AtField("model", absl::InvalidArgumentError(
                                    std::string(UnknownModel(request->model, "demo").message()))));
  const absl::StatusOr<PreparedRequest> prepared =
      PrepareRequest(*std::move(request), TheModel(), kLimits, /*drawn_seed=*/1);
  if (prepared.ok()) return CheckPrepared(*prepared);
  CheckRefusal(prepared.status());
  CHECK(!DetailOf(prepared.status()).field.empty()) << prepared.status();
}

void Check(const v1::ChatRequest& request) { CheckGeneration(FromProto(request)); }
void Check(const v1::CompleteRequest& request) { CheckGeneration(FromProto(request)); }
void Check(const v1::TokenizeRequest& request) {
  const auto ids = EncodeChat(ChatFromProto(request.messages(), request.tools()), TheModel());
  if (!ids.ok()) CheckRefusal(ids.status());
  CHECK(TheModel().tokenizer->Encode(request.text(), text::SpecialTokens::kAsText).ok());
}
void Check(const v1::DetokenizeRequest& request) {
  const std::vector<TokenId> ids(request.tokens().ids().begin(), request.tokens().ids().end());
  const absl::Status known = CheckTokenIds("tokens", ids, kLimits.vocab_size);
  if (!known.ok()) CheckRefusal(known);
}
void Check(const v1::ListModelsRequest&) {}
void Check(const v1::GetModelRequest& request) { CHECK(IsUtf8(request.model())); }

template <typename Request>
void CheckBytes(std::string_view bytes) {
  Request ours;
  Request theirs;
  const absl::Status parsed = ParseRequest(bytes, ours);
  const bool taken = theirs.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
  CHECK(parsed.ok() == taken) << parsed;
  if (!parsed.ok()) return CheckRefusal(parsed);
  CHECK(ours.SerializeAsString().size() == theirs.SerializeAsString().size());
  Check(ours);
}

}  // namespace
}  // namespace longhaul::router::rpc

// First byte: which method; the rest is its message.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longhaul::router::rpc;
  namespace v1 = longhaul::v1;
  // Protobuf would write a line for every string that is not UTF-8.
  static const google::protobuf::LogSilencer silencer;
  longhaul::fuzz::FuzzInput input(data, size);
  const size_t method = input.Below(6);
  const std::string_view bytes = input.Rest();
  switch (method) {
    case 0:
      CheckBytes<v1::ChatRequest>(bytes);
      break;
    case 1:
      CheckBytes<v1::CompleteRequest>(bytes);
      break;
    case 2:
      CheckBytes<v1::TokenizeRequest>(bytes);
      break;
    case 3:
      CheckBytes<v1::DetokenizeRequest>(bytes);
      break;
    case 4:
      CheckBytes<v1::ListModelsRequest>(bytes);
      break;
    default:
      CheckBytes<v1::GetModelRequest>(bytes);
  }
  return 0;
}
