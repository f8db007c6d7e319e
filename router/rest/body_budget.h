#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace longhaul::router::rest {

// Bytes that all request bodies together may hold in memory. Thread-safe.
class BodyBudget {
 public:
  explicit BodyBudget(int64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // A share of the budget, given back at the end of its life. The budget outlives it.
  class Lease {
   public:
    explicit Lease(BodyBudget& budget) : budget_(&budget) {}
    Lease(Lease&& other) noexcept
        : budget_(other.budget_), bytes_(std::exchange(other.bytes_, 0)) {}
    Lease& operator=(Lease&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Lease() { budget_->used_ -= bytes_; }

    // Takes what is missing to hold `bytes`; false, and nothing taken, if that exceeds the budget.
    bool GrowTo(int64_t bytes) {
      const int64_t more = bytes - bytes_;
      if (more <= 0) return true;
      if ((budget_->used_ += more) > budget_->limit_bytes_) {
        budget_->used_ -= more;
        return false;
      }
      bytes_ = bytes;
      return true;
    }

   private:
    BodyBudget* budget_;
    int64_t bytes_ = 0;
  };

 private:
  const int64_t limit_bytes_;
  std::atomic<int64_t> used_ = 0;
};

}  // namespace longhaul::router::rest
