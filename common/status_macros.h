#pragma once

#include <sstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// RETURN_IF_ERROR(expr) << "context";   returns expr's status if it is not OK, the context put
// before its message and the code kept. ASSIGN_OR_RETURN(auto x, expr) assigns the value or returns
// the status.

namespace longhaul::internal {

// Collects context and converts to absl::Status. Payloads of the original are kept.
class StatusBuilder {
 public:
  explicit StatusBuilder(absl::Status status) : status_(std::move(status)) {}

  template <typename T>
  StatusBuilder& operator<<(const T& value) & {
    context_ << value;
    return *this;
  }
  template <typename T>
  StatusBuilder&& operator<<(const T& value) && {
    context_ << value;
    return std::move(*this);
  }

  operator absl::Status() const {  // NOLINT(google-explicit-constructor): used in return statements
    const std::string context = context_.str();
    if (context.empty()) return status_;
    absl::Status result(status_.code(), context + ": " + std::string(status_.message()));
    status_.ForEachPayload(
        [&result](auto url, const absl::Cord& payload) { result.SetPayload(url, payload); });
    return result;
  }
  template <typename T>
  operator absl::StatusOr<T>() const {  // NOLINT(google-explicit-constructor)
    return absl::Status(*this);
  }

 private:
  absl::Status status_;
  std::ostringstream context_;
};

inline absl::Status ToStatus(absl::Status status) { return status; }
template <typename T>
absl::Status ToStatus(const absl::StatusOr<T>& value) {
  return value.status();
}

}  // namespace longhaul::internal

// The switch keeps an `else` that follows the macro from binding to its `if`.
#define RETURN_IF_ERROR(expr)                                                    \
  switch (0)                                                                     \
  case 0:                                                                        \
  default:                                                                       \
    if (::absl::Status longhaul_status = ::longhaul::internal::ToStatus((expr)); \
        longhaul_status.ok()) {                                                  \
    } else                                                                       \
      return ::longhaul::internal::StatusBuilder(std::move(longhaul_status))

#define LONGHAUL_CONCAT_INNER(a, b) a##b
#define LONGHAUL_CONCAT(a, b) LONGHAUL_CONCAT_INNER(a, b)

#define ASSIGN_OR_RETURN(lhs, expr) \
  LONGHAUL_ASSIGN_OR_RETURN(LONGHAUL_CONCAT(longhaul_value_, __LINE__), lhs, expr)
#define LONGHAUL_ASSIGN_OR_RETURN(result, lhs, expr) \
  auto result = (expr);                              \
  if (!result.ok()) return result.status();          \
  lhs = std::move(result).value()
