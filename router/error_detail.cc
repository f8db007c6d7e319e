#include "router/error_detail.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace longhaul::router {
namespace {

constexpr char kFieldUrl[] = "longhaul/field";
constexpr char kRetryAfterUrl[] = "longhaul/retry-after-seconds";

}  // namespace

absl::Status InvalidField(std::string_view field, std::string_view message) {
  absl::Status status = absl::InvalidArgumentError(std::string(message));
  status.SetPayload(kFieldUrl, absl::Cord(std::string(field)));
  return status;
}

absl::Status WithRetryAfter(absl::Status status, double seconds) {
  status.SetPayload(kRetryAfterUrl, absl::Cord(absl::StrFormat("%.17g", seconds)));
  return status;
}

ErrorDetail DetailOf(const absl::Status& status) {
  ErrorDetail detail;
  if (const auto field = status.GetPayload(kFieldUrl)) detail.field = std::string(*field);
  if (const auto text = status.GetPayload(kRetryAfterUrl)) {
    double seconds = 0;
    if (absl::SimpleAtod(std::string(*text), &seconds)) detail.retry_after_seconds = seconds;
  }
  return detail;
}

}  // namespace longhaul::router
