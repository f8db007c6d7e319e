#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/types.h"
#include "router/prediction.h"

namespace longhaul::router {

// One choice of one request: what is queued, placed and retried.
struct ExecutionKey {
  RequestId request;
  int32_t choice = 0;
  auto operator<=>(const ExecutionKey&) const = default;
};

struct WaitingExecution {
  ExecutionKey key;
  std::string tenant;
  int32_t priority = 0;  // higher first
  absl::Time deadline = absl::InfiniteFuture();
  double predicted_seconds = 0;  // prefill, once it runs; 0 = unknown
  uint64_t arrival = 0;          // set by Admit: its place in the order of arrival
};

// Requests that wait for a group, ordered by priority, then between tenants by the service they
// have had (predicted seconds; who had least goes first), then within a tenant by deadline and
// arrival.
//
// Bounded by a number of executions. Knows no group, no clock, no thread: thread-compatible, owned
// by the dispatch thread. Calls are O(n) at worst.
class AdmissionQueue {
 public:
  explicit AdmissionQueue(size_t capacity);

  // Takes all of `executions` (the choices of one request) or none. kResourceExhausted with a retry
  // hint: the queue is full, or predicted wait and prefill end after the deadline.
  absl::Status Admit(const std::vector<WaitingExecution>& executions, const ServiceRate& rate,
                     absl::Time now);

  // Puts back what TakeFirst gave and no group served. Never refused: it was admitted before. Keeps
  // its first arrival, and its tenant gets the service back.
  void PutBack(const WaitingExecution& execution);

  // Takes out the first execution, in order, for which `fits` is true.
  std::optional<WaitingExecution> TakeFirst(
      const std::function<bool(const WaitingExecution&)>& fits);

  // False if it does not wait here.
  bool Remove(const ExecutionKey& key);

  // Executions that would be taken before one of this priority that arrives now.
  size_t NumAhead(int32_t priority) const;

  // Predicted seconds until an execution of this priority and prefill has had its turn; absent
  // without a rate, or where the prefill itself is not predicted (0).
  std::optional<double> PredictedWaitSeconds(int32_t priority, double own_seconds,
                                             const ServiceRate& rate) const;

  size_t size() const { return entries_.size(); }

 private:
  using Order = std::pair<absl::Time, uint64_t>;  // within a tenant: deadline, then arrival
  // Tenants of one priority, each with what it waits for.
  using Tenants = std::map<std::string, std::map<Order, ExecutionKey>>;

  void Insert(const WaitingExecution& execution);
  WaitingExecution Extract(const ExecutionKey& key);
  // The least service among tenants that wait; 0 if none does.
  double LeastServed() const;
  // Forgets tenants whose record makes no difference any more.
  void ForgetIdleTenants();

  const size_t capacity_;
  uint64_t next_arrival_ = 1;
  std::map<int32_t, Tenants, std::greater<>> waiting_;  // by priority
  std::map<ExecutionKey, WaitingExecution> entries_;
  // Seconds of service that a tenant has had, and how many of its executions wait. One that waited
  // for nothing starts level with the least served one that waits: idleness earns no credit.
  struct Tenant {
    double served_seconds = 0;
    size_t num_waiting = 0;
  };
  std::map<std::string, Tenant> tenants_;
};

}  // namespace longhaul::router
