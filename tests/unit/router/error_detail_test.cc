#include "router/error_detail.h"

#include <gtest/gtest.h>

#include "common/status_macros.h"

namespace longhaul::router {
namespace {

TEST(ErrorDetail, AStatusWithoutDetailsHasEmptyOnes) {
  const ErrorDetail detail = DetailOf(absl::InternalError("x"));
  EXPECT_EQ(detail.field, "");
  EXPECT_FALSE(detail.retry_after_seconds.has_value());
}

TEST(ErrorDetail, InvalidFieldCarriesFieldAndMessage) {
  const absl::Status status = InvalidField("top_p", "top_p is 2, must be in (0, 1]");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "top_p is 2, must be in (0, 1]");
  EXPECT_EQ(DetailOf(status).field, "top_p");
}

TEST(ErrorDetail, AnUnknownModelIsNamedIfItsNameIsShort) {
  const absl::Status unknown = UnknownModel("x", "demo");
  EXPECT_EQ(unknown.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(unknown.message(), "model 'x' does not exist; this router serves 'demo'");
  EXPECT_EQ(DetailOf(unknown).field, "model");
  EXPECT_EQ(UnknownModel(std::string(256, 'm'), "demo").message().size(), 256 + 50);
  EXPECT_EQ(UnknownModel(std::string(257, 'm'), "demo").message(),
            "model of 257 bytes does not exist; this router serves 'demo'");
}

TEST(ErrorDetail, RetryHintIsExact) {
  for (const double seconds : {0.1, 1.0 / 3, 12345.678, 1e-9}) {
    EXPECT_EQ(
        DetailOf(WithRetryAfter(absl::ResourceExhaustedError("full"), seconds)).retry_after_seconds,
        seconds);
  }
}

TEST(ErrorDetail, DetailsSurviveAddedContext) {
  const auto wrap = []() -> absl::Status {
    RETURN_IF_ERROR(WithRetryAfter(InvalidField("n", "n is 0"), 2)) << "while reading";
    return absl::OkStatus();
  };
  const absl::Status status = wrap();
  EXPECT_EQ(status.message(), "while reading: n is 0");
  EXPECT_EQ(DetailOf(status).field, "n");
  EXPECT_EQ(DetailOf(status).retry_after_seconds, 2);
}

}  // namespace
}  // namespace longhaul::router
