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
  return AtField(field, absl::InvalidArgumentError(std::string(message)));
}

absl::Status AtField(std::string_view field, absl::Status status) {
  status.SetPayload(kFieldUrl, absl::Cord(std::string(field)));
  return status;
}

absl::Status UnknownModel(std::string_view name, std::string_view served) {
  constexpr size_t kMaxQuotedBytes = 256;
  const std::string quoted = name.size() <= kMaxQuotedBytes
                                 ? absl::StrCat("'", std::string(name), "'")
                                 : absl::StrCat("of ", name.size(), " bytes");
  return AtField("model", absl::NotFoundError(absl::StrCat("model ", quoted,
                                                           " does not exist; this router serves '",
                                                           std::string(served), "'")));
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
