#pragma once

#include <prometheus/registry.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "router/rest/http_exchange.h"
#include "router/rest/rest_call.h"

namespace longhaul::router::rest {

// The table of REST paths and what each answers.
//
//   POST /v1/chat/completions, /v1/completions       generation (RestCall)
//   POST /tokenize, /detokenize                      on the decode pool
//   GET  /v1/models, /v1/models/{id}                 at once, on the connection's thread, as are
//   GET  /health, /ready, /metrics, /version,        these; HEAD works where GET does
//        /openapi.json                               describes all of them (openapi.json)
//
// Thread-safe: holds no state of its own.
class RestRoutes final : public HttpHandler {
 public:
  // Everything is borrowed and outlives this.
  RestRoutes(const RestContext& context, const prometheus::Registry& registry)
      : context_(context), registry_(registry) {}

  std::optional<HttpReply> Refuse(std::string_view method, std::string_view path) const override;
  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override;

 private:
  HttpReply Get(const std::string& path) const;
  HttpReply Model(const std::string& id) const;
  // Calls `answer` with the readable body on the decode pool.
  void OnPool(HttpRequest request, std::shared_ptr<HttpExchange> exchange,
              std::function<absl::StatusOr<std::string>(std::string)> answer) const;
  absl::StatusOr<std::string> Tokenize(std::string body) const;
  absl::StatusOr<std::string> Detokenize(std::string body) const;
  // The named model, or the only one where none is named.
  absl::StatusOr<ModelInfo> FindModel(const std::optional<std::string>& name) const;

  const RestContext context_;
  const prometheus::Registry& registry_;
};

}  // namespace longhaul::router::rest
