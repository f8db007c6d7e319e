#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "common/status_macros.h"

// EXPECT_OK(status or StatusOr), ASSERT_OK_AND_ASSIGN(auto x, expr) and the matcher StatusIs(code,
// text).
namespace longhaul::testing {

MATCHER_P2(StatusIs, code, message_matcher, "") {
  const absl::Status status = internal::ToStatus(arg);
  *result_listener << status;
  return status.code() == code &&
         ::testing::Matches(message_matcher)(std::string(status.message()));
}

MATCHER(IsOk, "") {
  const absl::Status status = internal::ToStatus(arg);
  *result_listener << status;
  return status.ok();
}

}  // namespace longhaul::testing

#define EXPECT_OK(expr) EXPECT_THAT((expr), ::longhaul::testing::IsOk())
#define ASSERT_OK(expr) ASSERT_THAT((expr), ::longhaul::testing::IsOk())
#define ASSERT_OK_AND_ASSIGN(lhs, expr) \
  LONGHAUL_TEST_ASSIGN(LONGHAUL_CONCAT(longhaul_result_, __LINE__), lhs, expr)
#define LONGHAUL_TEST_ASSIGN(result, lhs, expr) \
  auto result = (expr);                         \
  ASSERT_OK(result);                            \
  lhs = std::move(result).value()
