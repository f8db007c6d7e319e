#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "worker/backend/backend.h"
#include "worker/rank/disk_tier.h"
#include "worker/rank/host_tier.h"
#include "worker/rank/kv_cache.h"
#include "worker/step_plan.h"

namespace longhaul::worker::rank {

// Carries out the moves of step plans: copies KV blocks between the device's cache, host memory and
// disk.
//
// Off the device every block has a checksum, which is looked at whenever the block is read, on the
// way from one of these tiers to the other too. A move that would bring wrong bytes, or meets an
// I/O error, fails by itself: the rank goes on, and the leader hears which it was. So does a move
// from the target of one that failed in the same plan. Knows no sequences: whose block it is, is
// the leader's business. Owned by the executor thread.
class KvMover {
 public:
  // "device", "host" or "disk".
  static const char* NameOf(KvMove::Tier tier);

  // What became of a move. Called by Run for each.
  struct Outcome {
    KvMove move;
    bool done = false;
    int64_t bytes = 0;  // of a block
    double seconds = 0;
  };
  using Observer = std::function<void(const Outcome&)>;

  // `cache`, `backend` and `clock` are borrowed. The tiers have blocks of cache.block_bytes(), or
  // no slots. `observer` may be empty.
  KvMover(const KvCache& cache, backend::Backend& backend, HostTier host, DiskTier disk,
          const Clock& clock, Observer observer = {});

  // Carries the moves out in order. Returns the indices of those that failed, ascending. `stop` is
  // looked at between moves: kCancelled. Errors: kInvalidArgument for a block or slot that does not
  // exist, before any move is done; what the backend returns (the device has failed).
  absl::StatusOr<std::vector<int32_t>> Run(std::span<const KvMove> moves,
                                           const std::atomic<bool>& stop);

 private:
  absl::Status Check(std::span<const KvMove> moves) const;
  int64_t Size(KvMove::Tier tier) const;
  // An error of the move, unless `device` has become one of the device.
  absl::Status Move(const KvMove& move, absl::Status& device);
  absl::Status MoveToDevice(const KvMove& move, absl::Status& device);
  absl::Status MoveToHost(const KvMove& move, absl::Status& device);
  absl::Status MoveToDisk(const KvMove& move, absl::Status& device);

  const KvCache& cache_;
  backend::Backend& backend_;
  HostTier host_;
  DiskTier disk_;
  const Clock& clock_;
  const Observer observer_;
  std::vector<uint8_t> staging_;  // a block between device and disk; empty without a disk tier
  // What the running plan's moves failed to fill.
  std::set<std::pair<KvMove::Tier, uint32_t>> unfilled_;
};

}  // namespace longhaul::worker::rank
