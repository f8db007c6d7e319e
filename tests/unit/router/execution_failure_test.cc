#include "router/execution_failure.h"

#include <gtest/gtest.h>

namespace longhaul::router {
namespace {

using absl::StatusCode;

TEST(ExecutionFailure, FollowsTheFailureMap) {
  struct Case {
    const char* name;
    StatusCode code;
    bool admitted;
    int32_t tokens;
    int32_t retries;
    FailureAction action;
    StatusCode client_code;
  };
  constexpr auto kElsewhere = FailureAction::kElsewhere;
  constexpr auto kRetry = FailureAction::kRetry;
  constexpr auto kFail = FailureAction::kFail;
  const Case cases[] = {
      {"lost before admission", StatusCode::kUnavailable, false, 0, 0, kRetry,
       StatusCode::kUnavailable},
      {"lost in prefill: progress is not a token", StatusCode::kUnavailable, true, 0, 0, kRetry,
       StatusCode::kUnavailable},
      {"lost twice", StatusCode::kUnavailable, true, 0, 1, kFail, StatusCode::kUnavailable},
      {"lost after a token", StatusCode::kUnavailable, true, 1, 0, kFail, StatusCode::kUnavailable},
      {"other model since the hello", StatusCode::kFailedPrecondition, false, 0, 0, kRetry,
       StatusCode::kUnavailable},
      {"full", StatusCode::kResourceExhausted, false, 0, 0, kElsewhere,
       StatusCode::kResourceExhausted},
      {"full, again", StatusCode::kResourceExhausted, false, 0, 1, kElsewhere,
       StatusCode::kResourceExhausted},
      {"known there from a try that was lost", StatusCode::kAlreadyExists, false, 0, 1, kElsewhere,
       StatusCode::kUnavailable},
      {"the leader's own retry was lost", StatusCode::kAborted, true, 0, 0, kFail,
       StatusCode::kUnavailable},
      {"NaN in the logits", StatusCode::kInternal, true, 5, 0, kFail, StatusCode::kInternal},
      {"refused as malformed", StatusCode::kInvalidArgument, false, 0, 0, kFail,
       StatusCode::kInvalidArgument},
      {"too late", StatusCode::kDeadlineExceeded, true, 0, 0, kFail, StatusCode::kDeadlineExceeded},
      {"no such method", StatusCode::kUnimplemented, false, 0, 0, kFail, StatusCode::kInternal},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const FailedExecution failed{absl::Status(c.code, "why"), c.admitted, c.tokens, c.retries};
    EXPECT_EQ(ActionAfter(failed), c.action);
    const absl::Status told = StatusForClient(failed);
    EXPECT_EQ(told.code(), c.client_code);
    EXPECT_NE(std::string(told.message()).find("why"), std::string::npos) << told;
  }
}

TEST(ExecutionFailure, SaysHowMuchWasDelivered) {
  EXPECT_EQ(StatusForClient({absl::UnavailableError("gone"), true, 17, 0}).message(),
            "generation was lost after 17 tokens: gone");
}

}  // namespace
}  // namespace longhaul::router
