#include "router/execution_failure.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace longhaul::router {
namespace {

constexpr int32_t kMaxRetries = 1;

}  // namespace

FailureAction ActionAfter(const FailedExecution& failed) {
  // ALREADY_EXISTS: a leader that has not noticed yet that it lost us in an earlier try.
  if (!failed.admitted &&
      (absl::IsResourceExhausted(failed.status) || absl::IsAlreadyExists(failed.status))) {
    return FailureAction::kElsewhere;
  }
  // A leader that refuses the digest serves something else than it said in its Hello.
  const bool lost = absl::IsUnavailable(failed.status) ||
                    (absl::IsFailedPrecondition(failed.status) && !failed.admitted);
  const bool may_retry = failed.tokens_delivered == 0 && failed.retries < kMaxRetries;
  return lost && may_retry ? FailureAction::kRetry : FailureAction::kFail;
}

absl::Status StatusForClient(const FailedExecution& failed) {
  const std::string message(failed.status.message());
  switch (failed.status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kInternal:
      return failed.status;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:  // the leader's own retry was lost too
      return absl::UnavailableError(absl::StrCat("generation was lost after ",
                                                 failed.tokens_delivered, " tokens: ", message));
    default:
      return absl::InternalError(
          absl::StrCat(absl::StatusCodeToString(failed.status.code()), ": ", message));
  }
}

}  // namespace longhaul::router
