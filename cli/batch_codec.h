#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Lines of OpenAI's batch files, as vLLM's run-batch reads and writes them. Pure functions.
namespace longhaul::cli {

// A line of the input.
struct BatchRequest {
  std::optional<std::string> custom_id;  // absent if the line has none that can be used
  absl::Status fault;                    // why it cannot be sent; then the fields below are empty
  std::string path;                      // "/v1/chat/completions" or "/v1/completions"
  std::string body;                      // as it came, "model" added if it was absent
};

// `model` is UTF-8. A fault is kInvalidArgument and names field and value. Inside the body only
// what this command decides on is looked at; the rest is the server's.
BatchRequest DecodeBatchRequest(std::string_view line, const std::string& model);

// What is known of a line of the output.
struct BatchResultInfo {
  std::optional<std::string> custom_id;
  bool succeeded = false;
  bool final = false;  // asked again, it would be answered the same way: not to be tried again
};

// A line for the output, its line break included. `body` is the server's; what is no JSON object
// becomes a JSON string.
std::string EncodeBatchResponse(const std::string& id, const std::optional<std::string>& custom_id,
                                int http_status, const std::string& request_id,
                                std::string_view body);
// A request that this command refuses, as a server that knows the reason would.
std::string EncodeBatchFault(const std::string& id, const std::optional<std::string>& custom_id,
                             const absl::Status& fault);
// A request without an answer.
std::string EncodeBatchFailure(const std::string& id, const std::string& custom_id,
                               const absl::Status& status);

// kInvalidArgument if the line is no result.
absl::StatusOr<BatchResultInfo> DecodeBatchResult(std::string_view line);

// True if `tail` may be what was written of a result before its writer was killed.
bool MayBeTornResult(std::string_view tail);

// Whether an answer stands: not those that blame the moment or the server.
bool IsFinalStatus(int http_status);

}  // namespace longhaul::cli
