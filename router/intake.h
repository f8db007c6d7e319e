#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/types.h"
#include "router/request.h"
#include "router/response_sink.h"

namespace longhaul::router {

struct ModelInfo {
  std::string id;             // served name
  int32_t max_model_len = 0;  // prompt and output tokens together
  int32_t healthy_groups = 0;
  int64_t created_unix_seconds = 0;
};

// The bytes that a token of a request's model stands for; see Intake::TokenBytes. Thread-safe.
using TokenBytes = std::function<std::string(TokenId)>;

// What a frontend (gRPC, REST) sees of the router: requests go in, events come back through the
// sink. Thread-safe; no call blocks on work of a request.
class Intake {
 public:
  virtual ~Intake() = default;

  // Takes the request over. Tokenizing, checks of length and ranges, admission and dispatch happen
  // on other threads and report through `sink`. Errors returned here (then the sink is never
  // called): kNotFound (model), kInvalidArgument (timeout), kResourceExhausted (intake buffer full,
  // with a retry hint), kUnavailable (shutting down).
  virtual absl::Status Submit(GenerateRequest request, std::shared_ptr<ResponseSink> sink) = 0;

  // The client is gone or has enough: no event follows once the cancellation is seen. Idempotent;
  // unknown ids are ignored.
  virtual void Cancel(const RequestId& id) = 0;

  virtual std::vector<ModelInfo> Models() const = 0;

  // Tokenizes on the caller's thread. Errors: kNotFound (model), kInvalidArgument (UTF-8).
  virtual absl::StatusOr<std::vector<TokenId>> Tokenize(std::string_view model,
                                                        std::string_view text,
                                                        bool parse_special) const = 0;
  // The same for messages, as a chat request would put them before the model.
  virtual absl::StatusOr<std::vector<TokenId>> TokenizeChat(std::string_view model,
                                                            const ChatInput& chat) const = 0;
  // Errors: kNotFound (model), kInvalidArgument (an id outside the vocabulary).
  virtual absl::StatusOr<std::string> Detokenize(std::string_view model,
                                                 const std::vector<TokenId>& ids) const = 0;

  // The bytes that a token stands for, perhaps part of a character; empty for an id that stands for
  // nothing, or without such a model. A look-up.
  virtual std::string TokenBytes(std::string_view model, TokenId id) const = 0;

  // True if requests are accepted and at least one group is ready.
  virtual bool Ready() const = 0;
};

}  // namespace longhaul::router
