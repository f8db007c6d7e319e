#include "router/intake_service.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "router/error_detail.h"
#include "router/prepare_request.h"

namespace longhaul::router {
namespace {

// Bytes that a request's prompt holds: as text before tokenizing, about the same as ids after it.
int64_t PromptBytes(const GenerateRequest& request) {
  size_t bytes = 0;
  if (const auto* chat = std::get_if<ChatInput>(&request.input)) {
    for (const text::ChatMessage& message : chat->messages) {
      bytes += message.content.size();
      for (const text::ToolCall& call : message.tool_calls) bytes += call.arguments_json.size();
    }
    for (const std::string& tool : chat->tools_json) bytes += tool.size();
  } else if (const auto* text = std::get_if<TextInput>(&request.input)) {
    bytes = text->prompt.size();
  } else {
    bytes = std::get<TokenInput>(request.input).ids.size() * sizeof(TokenId);
  }
  return static_cast<int64_t>(bytes);
}

// Bytes that the prompt may hold on its way back: for each choice its text and its logprobs. Fields
// out of range are refused before anything is held for them.
int64_t EchoBytes(const GenerateRequest& request, int64_t prompt_bytes, int32_t max_tokens) {
  int64_t bytes = request.echo ? prompt_bytes : 0;
  if (request.sampling.prompt_logprobs) {
    const int64_t alternatives =
        std::clamp<int64_t>(*request.sampling.prompt_logprobs, 0, kMaxTopLogprobs);
    bytes += std::min<int64_t>(prompt_bytes, max_tokens) *
             static_cast<int64_t>(sizeof(GeneratedToken) +
                                  static_cast<size_t>(alternatives) * sizeof(TokenLogprob));
  }
  return bytes * std::clamp<int64_t>(request.num_choices, 1, kMaxChoices);
}

}  // namespace

IntakeService::IntakeService(const IntakeOptions& options, const ServedModel& model,
                             const ClusterWatch& cluster, Dispatcher& dispatcher,
                             const Clock& clock, RouterMetrics& metrics, uint64_t seed_source)
    : options_(options),
      model_(model),
      cluster_(cluster),
      dispatcher_(dispatcher),
      clock_(clock),
      created_(clock.Now()),
      pool_(options.max_waiting, model, clock, metrics, seed_source,
            [&dispatcher](const RequestId& id, absl::StatusOr<PreparedRequest> prepared) {
              dispatcher.Prepared(id, std::move(prepared));
            }) {}

absl::Status IntakeService::Submit(GenerateRequest request, std::shared_ptr<ResponseSink> sink) {
  RETURN_IF_ERROR(CheckModel(request.model));
  request.arrival = clock_.Now();
  ASSIGN_OR_RETURN(request.deadline, DeadlineOf(request));
  TokenizeJob job{.request = std::move(request),
                  .limits = {.vocab_size = model_.vocab_size,
                             .max_model_len = MaxModelLen(),
                             .max_prompt_logprobs_tokens = options_.max_prompt_logprobs_tokens},
                  .prefix_roots = PrefixRoots()};
  const int64_t prompt_bytes = PromptBytes(job.request);
  job.prompt_bytes = prompt_bytes;
  RequestArrival arrival{
      .id = job.request.id,
      .sink = std::move(sink),
      .arrival = job.request.arrival,
      .deadline = job.request.deadline,
      .prompt_bytes =
          prompt_bytes + EchoBytes(job.request, prompt_bytes, options_.max_prompt_logprobs_tokens)};
  job.abandoned = arrival.abandoned;
  RETURN_IF_ERROR(dispatcher_.Announce(std::move(arrival)));
  // Announce counted the request, so the lane has a place for it.
  const RequestId id = job.request.id;
  const absl::Status queued = pool_.Submit(std::move(job));
  if (!queued.ok()) dispatcher_.Prepared(id, queued);
  return absl::OkStatus();
}

absl::StatusOr<absl::Time> IntakeService::DeadlineOf(const GenerateRequest& request) const {
  const absl::Time latest = request.arrival + options_.max_timeout;
  if (request.timeout_seconds) {
    const double seconds = *request.timeout_seconds;
    const double limit = absl::ToDoubleSeconds(options_.max_timeout);
    if (!(seconds > 0 && seconds <= limit)) {  // a NaN fails
      return InvalidField("timeout",
                          absl::StrCat("timeout is ", seconds, " seconds, must be in (0, ", limit,
                                       "] (--max-timeout-seconds)"));
    }
    return std::min(request.deadline, request.arrival + absl::Seconds(seconds));
  }
  if (request.deadline != absl::InfiniteFuture()) return std::min(request.deadline, latest);
  return request.arrival + std::min(options_.default_timeout, options_.max_timeout);
}

void IntakeService::Cancel(const RequestId& id) { dispatcher_.Cancel(id); }

std::vector<ModelInfo> IntakeService::Models() const {
  return {ModelInfo{.id = model_.name,
                    .max_model_len = MaxModelLen(),
                    .healthy_groups = cluster_.num_healthy(),
                    .created_unix_seconds = absl::ToUnixSeconds(created_)}};
}

absl::StatusOr<std::vector<TokenId>> IntakeService::Tokenize(std::string_view model,
                                                             std::string_view text,
                                                             bool parse_special) const {
  RETURN_IF_ERROR(CheckModel(model));
  return model_.tokenizer->Encode(
      text, parse_special ? text::SpecialTokens::kParse : text::SpecialTokens::kAsText);
}

absl::StatusOr<std::vector<TokenId>> IntakeService::TokenizeChat(std::string_view model,
                                                                 const ChatInput& chat) const {
  RETURN_IF_ERROR(CheckModel(model));
  return EncodeChat(chat, model_);
}

absl::StatusOr<std::string> IntakeService::Detokenize(std::string_view model,
                                                      const std::vector<TokenId>& ids) const {
  RETURN_IF_ERROR(CheckModel(model));
  RETURN_IF_ERROR(CheckTokenIds("tokens", ids, model_.vocab_size));
  return model_.tokenizer->Decode(ids, /*skip_special=*/false);
}

std::string IntakeService::TokenBytes(std::string_view model, TokenId id) const {
  if (model != model_.name) return "";
  return std::string(model_.tokenizer->TokenBytes(id));
}

bool IntakeService::Ready() const { return dispatcher_.accepting() && cluster_.num_healthy() > 0; }

absl::Status IntakeService::CheckModel(std::string_view name) const {
  if (name == model_.name) return absl::OkStatus();
  return UnknownModel(name, model_.name);
}

int32_t IntakeService::MaxModelLen() const {
  int32_t longest = 0;
  // Held: a newer view may be published meanwhile.
  const std::shared_ptr<const ClusterView> view = cluster_.view();
  for (const Group& group : view->groups) {
    longest = std::max(longest, group.limits.max_model_len);
  }
  return longest > 0 ? std::min(longest, model_.max_model_len) : model_.max_model_len;
}

std::vector<Digest> IntakeService::PrefixRoots() const {
  // Groups of one model differ in KV type or attention: there are few roots.
  constexpr size_t kMaxRoots = 4;
  std::vector<Digest> roots;
  const std::shared_ptr<const ClusterView> view = cluster_.view();
  for (const Group& group : view->groups) {
    const Digest& root = group.limits.prefix_root;
    if (roots.size() < kMaxRoots && std::ranges::find(roots, root) == roots.end()) {
      roots.push_back(root);
    }
  }
  return roots;
}

}  // namespace longhaul::router
