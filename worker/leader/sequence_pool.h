#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/types.h"
#include "worker/leader/kv_capacity.h"
#include "worker/leader/prefix_cache.h"
#include "worker/leader/prefix_rule.h"
#include "worker/leader/scheduler_limits.h"
#include "worker/leader/sequence.h"
#include "worker/step_plan.h"

namespace longhaul::worker::leader {

// KV blocks of so many positions.
int32_t BlocksFor(int64_t tokens);

// The sequences of a group: who waits, who runs, and whose KV is where. Knows nothing of plans but
// how many of them name a sequence.
//
// A sequence starts when the blocks of all its known tokens can be promised to it, but for what the
// prefix cache has of them on the device; it takes them as its rows are planned, and grows block by
// block as it generates. When no block is left, sequences behind the growing one are preempted, the
// last first: they wait in their old place and run again from their finished blocks as far as the
// cache still has them. The first in order is never preempted, and what could not run alone is
// refused by CheckFits, so everything that is taken in ends.
//
// What the cache has in host memory or on disk is brought back before a sequence's first rows, some
// blocks a step, so that others do not wait long for it.
//
// A head of the line that lacks blocks is passed only by those without which it would wait all the
// same: a stream of short requests never keeps a long job waiting.
//
// No I/O, no clock, no locks; thread-compatible, owned by the batch scheduler.
class SequencePool {
 public:
  SequencePool(const SchedulerLimits& limits, const PrefixRule& prefix);

  // Whether such a request can ever run. kInvalidArgument: never, the message names what to change.
  absl::Status CheckFits(int64_t prompt_tokens, int64_t max_tokens) const;
  // Whether it could start or wait now. kResourceExhausted: the line is full.
  absl::Status CheckRoom(int64_t prompt_tokens) const;

  // Takes the request in; it starts at once if nothing is ahead of it and its blocks can be had.
  // The reference is valid until the sequence has ended and no plan names it.
  Sequence& Enqueue(Request request);
  // Of a prompt that was just taken in: what the cache has of it in any tier.
  int64_t CachedPromptTokens(const Sequence& sequence) const;
  // It waits and runs no longer.
  void End(Sequence& sequence);

  // Before the first rows of `sequence` are planned: takes what has been cached since it started.
  // False: it should wait, because a plan in flight computes more of what they have in common.
  bool Refresh(Sequence& sequence);

  // Gives `sequence` the blocks of positions [0, end). False: it must wait for others, either to
  // end or until a plan that names them retires. Never for its known tokens as of its start.
  bool Grow(Sequence& sequence, int64_t end);

  // What the plan of this step is to copy between tiers, evictions by Grow included.
  std::vector<KvMove> TakeMoves(StepId step);
  // The step retired, and these of its moves failed.
  void MovesDone(StepId step, std::span<const int32_t> failed);

  // A plan names the sequence; plans that do retire in order.
  void Planned(Sequence& sequence) { ++sequence.plans_in_flight; }
  // Rows up to position `end` have been run on all ranks: finished blocks go to the cache.
  void Processed(Sequence& sequence, int64_t end);
  // A plan that names it has retired. Returns whether the sequence is gone now.
  bool Retired(Sequence& sequence);

  // Ranks are up, with these blocks, and know nothing. Precondition: no group is up.
  void GroupUp(const KvCapacity& capacity);
  // Ranks are gone. Returns the sequences that were running; they wait again in their old place.
  std::vector<Sequence*> GroupDown();
  bool group_up() const { return group_up_; }

  // Sequences whose state the ranks are to drop, told once.
  std::vector<SequenceId> TakeEnds() { return std::exchange(unsent_ends_, {}); }
  // Since the last call: sequences that gave their blocks to others.
  std::vector<Sequence*> TakePreempted() { return std::exchange(preempted_, {}); }

  const std::vector<Sequence*>& running() const { return running_; }  // in order
  const std::vector<Sequence*>& waiting() const { return waiting_; }  // in order
  const PrefixCache& cache() const { return cache_; }
  PrefixCache& cache() { return cache_; }
  // Blocks that are not held, nor promised to those that run.
  int32_t num_available() const { return cache_.num_available() - promised_; }

 private:
  bool CanStart(int32_t num_blocks) const;
  // Moves from the line to the running ones what may start.
  void StartWaiting();
  // False, and nothing has changed, if there are not enough blocks.
  bool Start(Sequence& sequence);
  bool Reuses(const Sequence& sequence) const;
  PrefixCache::Match Lookup(const Sequence& sequence);
  bool TakeCached(Sequence& sequence);
  // Moves its start behind the blocks that have been brought back.
  void Restored(Sequence& sequence);
  void Preempt(Sequence& sequence);
  void GiveBack(Sequence& sequence);
  void Forget(Sequence& sequence);

  const SchedulerLimits limits_;
  const PrefixRule prefix_;
  PrefixCache cache_;
  int32_t promised_ = 0;      // blocks, to all that run
  int32_t known_blocks_ = 0;  // of the incarnation that is up, or was last
  bool group_up_ = false;
  std::map<uint64_t, std::unique_ptr<Sequence>> sequences_;  // by order of arrival
  std::vector<Sequence*> waiting_;
  std::vector<Sequence*> running_;
  std::vector<Sequence*> preempted_;
  std::vector<SequenceId> unsent_ends_;
  uint64_t next_order_ = 0;
  SequenceId next_sequence_id_ = 1;
};

// Whether a prefill may have a part of the steps of the first in line.
bool MayPass(const Sequence& sequence, const Sequence& first);
// Tokens of it that are known and not planned.
int64_t RestOf(const Sequence& sequence);
// The order of the line: priority, then arrival.
bool IsBefore(const Sequence* a, const Sequence* b);

}  // namespace longhaul::worker::leader
