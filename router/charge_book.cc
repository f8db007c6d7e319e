#include "router/charge_book.h"

#include <algorithm>

namespace longhaul::router {
namespace {

// A load event may have been on its way while the cancellation was: the one after it knows of it.
constexpr uint64_t kLoadsUntilCancelled = 2;

}  // namespace

void ChargeBook::Charge(const ExecutionKey& key, const GroupLife& group,
                        const GroupCharge& charge) {
  entries_[key] = Entry{.group = group, .charge = charge};
}

void ChargeBook::Admitted(const ExecutionKey& key, uint64_t load_sequence) {
  const auto entry = entries_.find(key);
  if (entry == entries_.end()) return;
  entry->second.admitted = true;
  entry->second.admitted_at = load_sequence;
}

void ChargeBook::PrefillBegan(const ExecutionKey& key) {
  const auto entry = entries_.find(key);
  if (entry != entries_.end()) entry->second.charge.waiting_long = 0;
}

void ChargeBook::Drop(const ExecutionKey& key) { entries_.erase(key); }

void ChargeBook::Cancelled(const ExecutionKey& key, const ClusterView& view, int32_t prompt_tokens,
                           int32_t processed_tokens) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return;
  Entry& entry = found->second;
  for (const Group& group : view.groups) {
    if (entry.group != GroupLife{group.address, group.incarnation}) continue;
    if (!entry.admitted || group.load.sequence <= entry.admitted_at) break;  // not shown yet
    const double remaining =
        group.PrefillSeconds(prompt_tokens) - group.PrefillSeconds(processed_tokens);
    entry.charge = GroupCharge{.seconds = -remaining};
    entry.cancelled = true;
    entry.cancelled_at = group.load.sequence;
    return;
  }
  entries_.erase(found);
}

ClusterView ChargeBook::Apply(const ClusterView& view) {
  ClusterView charged = view;
  for (auto at = entries_.begin(); at != entries_.end();) {
    Entry& entry = at->second;
    const auto group = std::find_if(
        charged.groups.begin(), charged.groups.end(), [&entry](const Group& candidate) {
          return entry.group == GroupLife{candidate.address, candidate.incarnation};
        });
    const bool present = group != charged.groups.end();
    if (entry.cancelled &&
        (!present || group->load.sequence >= entry.cancelled_at + kLoadsUntilCancelled)) {
      at = entries_.erase(at);
      continue;
    }
    ++at;
    if (!present) continue;
    if (!entry.cancelled && entry.admitted && group->load.sequence > entry.admitted_at) {
      entry.charge = GroupCharge{.waiting_long = entry.charge.waiting_long};
    }
    group->charge.requests += entry.charge.requests;
    group->charge.waiting_long += entry.charge.waiting_long;
    group->charge.seconds += entry.charge.seconds;
    group->charge.kv_blocks += entry.charge.kv_blocks;
  }
  // Credits are predictions too: they never make a backlog negative.
  for (Group& group : charged.groups) {
    group.charge.seconds = std::max(group.charge.seconds, -group.load.queued_seconds);
  }
  return charged;
}

}  // namespace longhaul::router
