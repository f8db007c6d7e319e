#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "router/admission_queue.h"
#include "router/cluster_view.h"
#include "router/placement.h"

namespace longhaul::router {

// How the groups' last loads differ from what this router knows: work it has sent and they do not
// show yet, and work it has cancelled and they still show.
//
// A charge is made at dispatch. After the leader's Admitted it stands until a later load event,
// which includes the work; the slot of a long job stands until its prefill begins.
// Thread-compatible, owned by the dispatch thread.
class ChargeBook {
 public:
  void Charge(const ExecutionKey& key, const GroupLife& group, const GroupCharge& charge);

  // `load_sequence` is that of the group's load event seen last.
  void Admitted(const ExecutionKey& key, uint64_t load_sequence);
  void PrefillBegan(const ExecutionKey& key);

  // The execution has ended, was rejected or has failed. Unknown keys are ignored.
  void Drop(const ExecutionKey& key);

  // The execution was cancelled behind `processed_tokens` of its `prompt_tokens`. What was left of
  // its prefill is taken off the group's backlog until the group's loads have had time to do so.
  void Cancelled(const ExecutionKey& key, const ClusterView& view, int32_t prompt_tokens,
                 int32_t processed_tokens);

  // `view` with charges and credits in place; those that its loads include by now are dropped.
  ClusterView Apply(const ClusterView& view);

 private:
  struct Entry {
    GroupLife group;
    GroupCharge charge;
    bool admitted = false;
    uint64_t admitted_at = 0;  // load sequence
    bool cancelled = false;
    uint64_t cancelled_at = 0;  // load sequence
  };
  std::map<ExecutionKey, Entry> entries_;
};

}  // namespace longhaul::router
