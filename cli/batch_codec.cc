#include "cli/batch_codec.h"

#include <simdjson.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/text/utf8.h"

namespace longhaul::cli {
namespace {

using Json = nlohmann::ordered_json;
namespace ondemand = simdjson::ondemand;

constexpr size_t kMaxCustomIdBytes = 512;
// What every result begins with.
constexpr std::string_view kResultPrefix = R"({"id":"batch_req_)";

std::string Quoted(std::string_view text) {
  return Json(text.substr(0, 100)).dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::Status Fault(std::string_view what) { return absl::InvalidArgumentError(std::string(what)); }

// The fields of a line as they stand in it.
struct RawFields {
  std::optional<std::string> custom_id;
  std::optional<std::string> method;
  std::optional<std::string> url;
  std::optional<std::string> body;  // JSON text of an object
  absl::Status custom_id_fault;
};

absl::Status NotJson(simdjson::error_code error) {
  return Fault(absl::StrCat("the line is no JSON object: ", simdjson::error_message(error)));
}

absl::Status ReadCustomId(ondemand::value value, RawFields& fields) {
  std::string_view text;
  if (value.get_string().get(text) != simdjson::SUCCESS) {
    return Fault("custom_id must be a string");
  }
  if (text.empty() || text.size() > kMaxCustomIdBytes) {
    return Fault(
        absl::StrCat("custom_id has ", text.size(), " bytes, limits 1 and ", kMaxCustomIdBytes));
  }
  fields.custom_id = std::string(text);
  return absl::OkStatus();
}

// Parses the line and takes the fields apart. An error is one of JSON.
absl::Status ReadFields(const simdjson::padded_string& line, RawFields& fields) {
  ondemand::parser parser;
  ondemand::document document;
  ondemand::object object;
  if (const auto error = parser.iterate(line).get(document)) return NotJson(error);
  if (const auto error = document.get_object().get(object)) return NotJson(error);
  for (auto item : object) {
    ondemand::field field;
    if (const auto error = std::move(item).get(field)) return NotJson(error);
    std::string_view key;
    if (const auto error = field.unescaped_key().get(key)) return NotJson(error);
    ondemand::value value = field.value();
    std::string_view text;
    if (key == "custom_id") {
      fields.custom_id_fault = ReadCustomId(value, fields);
    } else if (key == "method" || key == "url") {
      const bool is_method = key == "method";
      if (value.get_string().get(text) != simdjson::SUCCESS) {
        return Fault(absl::StrCat(is_method ? "method" : "url", " must be a string"));
      }
      (is_method ? fields.method : fields.url) = std::string(text);
    } else if (key == "body") {
      ondemand::object body;
      if (value.get_object().get(body) != simdjson::SUCCESS) {
        return Fault("body must be an object");
      }
      if (const auto error = body.raw_json().get(text)) return NotJson(error);
      fields.body = std::string(text);
    }
  }
  // simdjson finds nothing to point at when all is read.
  const char* rest = nullptr;
  if (document.current_location().get(rest) == simdjson::SUCCESS) {
    return Fault("the line has more than one JSON value");
  }
  return absl::OkStatus();
}

// Refuses a stream, and adds `model` where it is absent.
absl::StatusOr<std::string> ReadyBody(const std::string& body, const std::string& model) {
  const simdjson::padded_string padded(body);
  ondemand::parser parser;
  ondemand::document document;
  ondemand::object object;
  if (const auto error = parser.iterate(padded).get(document)) return NotJson(error);
  if (const auto error = document.get_object().get(object)) return NotJson(error);
  bool has_model = false;
  bool is_empty = true;
  for (auto item : object) {
    ondemand::field field;
    if (const auto error = std::move(item).get(field)) return NotJson(error);
    std::string_view key;
    if (const auto error = field.unescaped_key().get(key)) return NotJson(error);
    is_empty = false;
    has_model |= key == "model";
    bool stream = false;
    if (key == "stream" && field.value().get_bool().get(stream) == simdjson::SUCCESS && stream) {
      return Fault("body.stream is true: an answer in a file is no stream");
    }
  }
  if (has_model) return body;
  return absl::StrCat("{\"model\":", Json(model).dump(), is_empty ? "" : ",", body.substr(1));
}

absl::Status Judge(RawFields fields, const std::string& model, BatchRequest& request) {
  RETURN_IF_ERROR(fields.custom_id_fault);
  if (!fields.custom_id.has_value()) return Fault("custom_id is missing");
  if (fields.method.value_or("POST") != "POST") {
    return Fault(absl::StrCat("method is ", Quoted(*fields.method), ", only \"POST\" is known"));
  }
  if (!fields.url.has_value()) return Fault("url is missing");
  if (fields.url != "/v1/chat/completions" && fields.url != "/v1/completions") {
    return Fault(absl::StrCat("url is ", Quoted(*fields.url),
                              ", known are \"/v1/chat/completions\" and \"/v1/completions\""));
  }
  if (!fields.body.has_value()) return Fault("body is missing");
  ASSIGN_OR_RETURN(request.body, ReadyBody(*fields.body, model));
  request.path = *std::move(fields.url);
  return absl::OkStatus();
}

// The head of a result up to the value of `response`.
std::string Head(const std::string& id, const std::optional<std::string>& custom_id) {
  return absl::StrCat(std::string(kResultPrefix), id, R"(","custom_id":)",
                      custom_id.has_value() ? Json(*custom_id).dump() : "null", R"(,"response":)");
}

}  // namespace

BatchRequest DecodeBatchRequest(std::string_view line, const std::string& model) {
  BatchRequest request;
  if (const size_t offset = text::FindInvalidUtf8(line); offset != std::string_view::npos) {
    request.fault = Fault(absl::StrCat("the line is not UTF-8 at its byte ", offset));
    return request;
  }
  RawFields fields;
  const absl::Status read = ReadFields(simdjson::padded_string(line), fields);
  request.custom_id = fields.custom_id;
  request.fault = read.ok() ? Judge(std::move(fields), model, request) : read;
  return request;
}

std::string EncodeBatchResponse(const std::string& id, const std::optional<std::string>& custom_id,
                                int http_status, const std::string& request_id,
                                std::string_view body) {
  std::string json;
  if (Json::accept(body)) {
    json = body;
    // Outside of strings, which cannot hold one, a line break is white space.
    std::replace_if(
        json.begin(), json.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  } else {
    json = Json(body).dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  return absl::StrCat(Head(id, custom_id), R"({"status_code":)", http_status, R"(,"request_id":)",
                      Json(request_id).dump(-1, ' ', false, Json::error_handler_t::replace),
                      R"(,"body":)", json, "},\"error\":null}\n");
}

std::string EncodeBatchFault(const std::string& id, const std::optional<std::string>& custom_id,
                             const absl::Status& fault) {
  const Json body = {{"error",
                      {{"message", std::string(fault.message())},
                       {"type", "invalid_request_error"},
                       {"param", nullptr},
                       {"code", "invalid_batch_line"}}}};
  return EncodeBatchResponse(id, custom_id, 400, id,
                             body.dump(-1, ' ', false, Json::error_handler_t::replace));
}

std::string EncodeBatchFailure(const std::string& id, const std::string& custom_id,
                               const absl::Status& status) {
  const Json error = {{"code", "no_answer"}, {"message", std::string(status.message())}};
  return absl::StrCat(Head(id, custom_id), R"(null,"error":)",
                      error.dump(-1, ' ', false, Json::error_handler_t::replace), "}\n");
}

absl::StatusOr<BatchResultInfo> DecodeBatchResult(std::string_view line) {
  const simdjson::padded_string padded(line);
  simdjson::dom::parser parser;
  simdjson::dom::object result;
  if (parser.parse(padded).get(result) != simdjson::SUCCESS) {
    return Fault("it is no JSON object");
  }
  simdjson::dom::element custom_id;
  simdjson::dom::element response;
  if (result["custom_id"].get(custom_id) != simdjson::SUCCESS ||
      result["response"].get(response) != simdjson::SUCCESS) {
    return Fault("it has no custom_id or no response");
  }
  BatchResultInfo info;
  std::string_view text;
  if (custom_id.get(text) == simdjson::SUCCESS) info.custom_id = std::string(text);
  int64_t status = 0;
  if (response["status_code"].get(status) == simdjson::SUCCESS) {
    info.succeeded = status == 200;
    info.final = info.custom_id.has_value() && IsFinalStatus(static_cast<int>(status));
  }
  return info;
}

bool MayBeTornResult(std::string_view tail) {
  const size_t size = std::min(tail.size(), kResultPrefix.size());
  return tail.substr(0, size) == kResultPrefix.substr(0, size);
}

bool IsFinalStatus(int http_status) {
  // 408, 425, 429 and 499 speak of the moment, not of the request.
  constexpr int kOfTheMoment[] = {408, 425, 429, 499};
  return http_status < 500 && std::find(std::begin(kOfTheMoment), std::end(kOfTheMoment),
                                        http_status) == std::end(kOfTheMoment);
}

}  // namespace longhaul::cli
