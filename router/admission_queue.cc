#include "router/admission_queue.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/logging.h"
#include "router/error_detail.h"

namespace longhaul::router {
namespace {

// What a client is told to wait at least: below a second, retries cost more than they gain.
constexpr double kMinRetrySeconds = 1.0;

// What an execution counts for in the sharing between tenants. Without any prediction each counts
// the same.
double Service(const WaitingExecution& execution) {
  constexpr double kMinServiceSeconds = 0.001;
  return std::max(execution.predicted_seconds, kMinServiceSeconds);
}

}  // namespace

AdmissionQueue::AdmissionQueue(size_t capacity) : capacity_(capacity) {}

absl::Status AdmissionQueue::Admit(const std::vector<WaitingExecution>& executions,
                                   const ServiceRate& rate, absl::Time now) {
  CHECK(!executions.empty()) << "a request has at least one execution";
  const WaitingExecution& first = executions.front();
  const std::optional<double> wait =
      PredictedWaitSeconds(first.priority, first.predicted_seconds, rate);
  if (entries_.size() + executions.size() > capacity_) {
    return WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                              "the queue holds ", entries_.size(), " executions, request has ",
                              executions.size(), " more, limit ", capacity_)),
                          std::max(wait.value_or(0), kMinRetrySeconds));
  }
  if (wait && first.deadline != absl::InfiniteFuture()) {
    const double left = absl::ToDoubleSeconds(first.deadline - now);
    const double late = *wait + first.predicted_seconds - left;
    if (late > 0) {
      absl::Status status = absl::ResourceExhaustedError(absl::StrFormat(
          "predicted wait of %.3f s and prefill of %.3f s end after the deadline in %.3f s", *wait,
          first.predicted_seconds, left));
      // Only a wait can get shorter: if the prefill alone is too long, a retry meets the same end.
      if (first.predicted_seconds > left) return status;
      return WithRetryAfter(std::move(status), std::max(late, kMinRetrySeconds));
    }
  }
  for (WaitingExecution execution : executions) {
    execution.arrival = next_arrival_++;
    Insert(execution);
  }
  return absl::OkStatus();
}

void AdmissionQueue::PutBack(const WaitingExecution& execution) {
  CHECK(execution.arrival > 0) << "only what was admitted can be put back";
  Insert(execution);
  Tenant& tenant = tenants_[execution.tenant];
  tenant.served_seconds = std::max(0.0, tenant.served_seconds - Service(execution));
}

std::optional<WaitingExecution> AdmissionQueue::TakeFirst(
    const std::function<bool(const WaitingExecution&)>& fits) {
  for (const auto& [priority, tenants] : waiting_) {
    std::vector<const std::pair<const std::string, std::map<Order, ExecutionKey>>*> order;
    for (const auto& tenant : tenants) order.push_back(&tenant);
    std::stable_sort(order.begin(), order.end(), [this](const auto* a, const auto* b) {
      return tenants_.at(a->first).served_seconds < tenants_.at(b->first).served_seconds;
    });
    for (const auto* tenant : order) {
      for (const auto& [place, key] : tenant->second) {
        if (!fits(entries_.at(key))) continue;
        WaitingExecution taken = Extract(ExecutionKey(key));
        tenants_[taken.tenant].served_seconds += Service(taken);
        ForgetIdleTenants();
        return taken;
      }
    }
  }
  return std::nullopt;
}

bool AdmissionQueue::Remove(const ExecutionKey& key) {
  if (!entries_.contains(key)) return false;
  Extract(key);
  ForgetIdleTenants();
  return true;
}

size_t AdmissionQueue::NumAhead(int32_t priority) const {
  return static_cast<size_t>(
      std::count_if(entries_.begin(), entries_.end(),
                    [priority](const auto& e) { return e.second.priority >= priority; }));
}

std::optional<double> AdmissionQueue::PredictedWaitSeconds(int32_t priority, double own_seconds,
                                                           const ServiceRate& rate) const {
  if (rate.num_groups == 0 || own_seconds <= 0) return std::nullopt;
  double ahead_seconds = 0;
  for (const auto& [key, execution] : entries_) {
    if (execution.priority < priority) continue;
    // A longer one shares its steps (Group::WaitSeconds).
    ahead_seconds += std::min(execution.predicted_seconds, own_seconds);
  }
  return rate.least_wait_seconds + ahead_seconds / rate.num_groups;
}

void AdmissionQueue::Insert(const WaitingExecution& execution) {
  const bool inserted = entries_.emplace(execution.key, execution).second;
  CHECK(inserted) << "request=" << execution.key.request.ToString()
                  << " choice=" << execution.key.choice << " waits already";
  const double least_served = LeastServed();
  waiting_[execution.priority][execution.tenant].emplace(
      Order{execution.deadline, execution.arrival}, execution.key);
  Tenant& tenant = tenants_[execution.tenant];
  if (tenant.num_waiting++ == 0) {
    tenant.served_seconds = std::max(tenant.served_seconds, least_served);
  }
}

WaitingExecution AdmissionQueue::Extract(const ExecutionKey& key) {
  auto node = entries_.extract(key);
  WaitingExecution execution = std::move(node.mapped());
  const auto tenants = waiting_.find(execution.priority);
  const auto tenant = tenants->second.find(execution.tenant);
  tenant->second.erase(Order{execution.deadline, execution.arrival});
  if (tenant->second.empty()) tenants->second.erase(tenant);
  if (tenants->second.empty()) waiting_.erase(tenants);
  --tenants_[execution.tenant].num_waiting;
  return execution;
}

double AdmissionQueue::LeastServed() const {
  std::optional<double> least;
  for (const auto& [name, tenant] : tenants_) {
    if (tenant.num_waiting == 0) continue;
    least = std::min(least.value_or(tenant.served_seconds), tenant.served_seconds);
  }
  return least.value_or(0);
}

void AdmissionQueue::ForgetIdleTenants() {
  const double least_served = LeastServed();
  std::erase_if(tenants_, [&](const auto& entry) {
    return entry.second.num_waiting == 0 &&
           (entries_.empty() || entry.second.served_seconds <= least_served);
  });
}

}  // namespace longhaul::router
