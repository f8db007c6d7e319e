#include "router/rest/rest_routes.h"

#include <boost/asio/post.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/metrics.h"
#include "common/status_macros.h"
#include "router/error_detail.h"
#include "router/rest/openai_codec.h"
#include "router/rest/openai_encoder.h"
#include "router/rest/openai_error.h"
#include "router/rest/openapi_document.h"
#include "router/rest/request_body.h"

namespace longhaul::router::rest {
namespace {

constexpr std::string_view kModelPrefix = "/v1/models/";

struct Route {
  std::string_view path;
  bool is_post;
};
constexpr Route kRoutes[] = {
    {"/v1/chat/completions", true},
    {"/v1/completions", true},
    {"/tokenize", true},
    {"/detokenize", true},
    {"/v1/models", false},
    {"/health", false},
    {"/ready", false},
    {"/metrics", false},
    {"/version", false},
    {"/openapi.json", false},
};

std::optional<Route> FindRoute(std::string_view path) {
  for (const Route& route : kRoutes) {
    if (path == route.path) return route;
  }
  if (path.starts_with(kModelPrefix)) return Route{path, false};
  return std::nullopt;
}

}  // namespace

std::optional<HttpReply> RestRoutes::Refuse(std::string_view method, std::string_view path) const {
  const std::optional<Route> route = FindRoute(path);
  if (!route.has_value()) {
    return HttpErrorReply(404, absl::StrCat("there is no path ", std::string(path), " here"));
  }
  const bool allowed = route->is_post ? method == "POST" : method == "GET" || method == "HEAD";
  if (allowed) return std::nullopt;
  const char* methods = route->is_post ? "POST" : "GET, HEAD";
  HttpReply reply = HttpErrorReply(
      405, absl::StrCat(std::string(path), " takes ", methods, ", not ", std::string(method)));
  reply.headers.emplace_back("Allow", methods);
  return reply;
}

void RestRoutes::Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
  const std::string& path = request.path;
  if (request.method != "POST") return exchange->Reply(Get(path));
  if (path == "/v1/chat/completions") {
    RestCall::Start(context_, OpenAiEndpoint::kChatCompletions, std::move(request), exchange);
  } else if (path == "/v1/completions") {
    RestCall::Start(context_, OpenAiEndpoint::kCompletions, std::move(request), exchange);
  } else if (path == "/tokenize") {
    OnPool(std::move(request), std::move(exchange),
           [this](std::string body) { return Tokenize(std::move(body)); });
  } else {
    OnPool(std::move(request), std::move(exchange),
           [this](std::string body) { return Detokenize(std::move(body)); });
  }
}

HttpReply RestRoutes::Get(const std::string& path) const {
  if (path == "/health") return {.body = R"({"status":"ok"})"};
  if (path == "/ready") {
    if (context_.intake.Ready()) return {.body = R"({"status":"ready"})"};
    return {.status = 503, .body = R"({"status":"no group is ready"})"};
  }
  if (path == "/version") return {.body = R"({"version":")" LONGHAUL_VERSION R"("})"};
  if (path == "/openapi.json") return {.body = std::string(OpenApiDocument())};
  if (path == "/v1/models") return {.body = ModelListBody(context_.intake.Models())};
  if (path == "/metrics") {
    return {.content_type = "text/plain; version=0.0.4; charset=utf-8",
            .body = RenderMetrics(registry_)};
  }
  return Model(path.substr(kModelPrefix.size()));
}

HttpReply RestRoutes::Model(const std::string& id) const {
  const absl::StatusOr<ModelInfo> model = FindModel(id);
  if (!model.ok()) return ErrorReply(model.status());
  return {.body = ModelBody(*model)};
}

void RestRoutes::OnPool(HttpRequest request, std::shared_ptr<HttpExchange> exchange,
                        std::function<absl::StatusOr<std::string>(std::string)> answer) const {
  // Shared because std::function copies what it holds.
  const auto shared = std::make_shared<HttpRequest>(std::move(request));
  const absl::Status posted = context_.decode_pool.Post(
      [shared, exchange, answer = std::move(answer), limit = context_.options.max_body_bytes] {
        absl::StatusOr<std::string> body = ReadableBody(*shared, limit);
        if (body.ok()) body = answer(*std::move(body));
        HttpReply reply =
            body.ok() ? HttpReply{.body = *std::move(body)} : BodyErrorReply(body.status());
        boost::asio::post(exchange->executor(), [exchange, reply = std::move(reply)]() mutable {
          exchange->Reply(std::move(reply));
        });
      });
  if (!posted.ok()) exchange->Reply(ErrorReply(posted));
}

absl::StatusOr<std::string> RestRoutes::Tokenize(std::string body) const {
  ASSIGN_OR_RETURN(const TokenizeRequest request, DecodeTokenizeRequest(std::move(body)));
  ASSIGN_OR_RETURN(const ModelInfo model, FindModel(request.model));
  const auto* chat = std::get_if<ChatInput>(&request.input);
  const absl::StatusOr<std::vector<TokenId>> ids =
      chat != nullptr
          ? context_.intake.TokenizeChat(model.id, *chat)
          : context_.intake.Tokenize(model.id, std::get<TextInput>(request.input).prompt,
                                     request.parse_special);
  RETURN_IF_ERROR(ids);
  return TokenizeBody(*ids, model.max_model_len);
}

absl::StatusOr<std::string> RestRoutes::Detokenize(std::string body) const {
  ASSIGN_OR_RETURN(const DetokenizeRequest request, DecodeDetokenizeRequest(std::move(body)));
  ASSIGN_OR_RETURN(const ModelInfo model, FindModel(request.model));
  ASSIGN_OR_RETURN(const std::string text, context_.intake.Detokenize(model.id, request.tokens));
  return DetokenizeBody(text);
}

absl::StatusOr<ModelInfo> RestRoutes::FindModel(const std::optional<std::string>& name) const {
  const std::vector<ModelInfo> models = context_.intake.Models();
  if (!name.has_value()) {
    if (models.size() == 1) return models.front();
    return InvalidField("model", absl::StrCat("model is required, ", models.size(), " are served"));
  }
  std::vector<std::string> served;
  for (const ModelInfo& model : models) {
    if (model.id == *name) return model;
    served.push_back(model.id);
  }
  return UnknownModel(*name, absl::StrJoin(served, "', '"));
}

}  // namespace longhaul::router::rest
