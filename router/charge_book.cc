#include "router/charge_book.h"

namespace longhaul::router {

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

ClusterView ChargeBook::Apply(const ClusterView& view) {
  ClusterView charged = view;
  for (auto& [key, entry] : entries_) {
    for (Group& group : charged.groups) {
      if (entry.group != GroupLife{group.address, group.incarnation}) continue;
      if (entry.admitted && group.load.sequence > entry.admitted_at) {
        entry.charge = GroupCharge{.waiting_long = entry.charge.waiting_long};
      }
      group.charge.requests += entry.charge.requests;
      group.charge.waiting_long += entry.charge.waiting_long;
      group.charge.seconds += entry.charge.seconds;
      group.charge.kv_blocks += entry.charge.kv_blocks;
      break;
    }
  }
  return charged;
}

}  // namespace longhaul::router
