#include "worker/rank/kv_mover.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace longhaul::worker::rank {
namespace {

// Lines for the failed moves of one plan; a full disk fails them all.
constexpr size_t kMaxLogged = 4;

}  // namespace

const char* KvMover::NameOf(KvMove::Tier tier) {
  switch (tier) {
    case KvMove::Tier::kDevice:
      return "device";
    case KvMove::Tier::kHost:
      return "host";
    case KvMove::Tier::kDisk:
      return "disk";
  }
  LOG(FATAL) << "tier " << static_cast<int>(tier);
  return "";
}

KvMover::KvMover(const KvCache& cache, backend::Backend& backend, HostTier host, DiskTier disk,
                 const Clock& clock, Observer observer)
    : cache_(cache),
      backend_(backend),
      host_(std::move(host)),
      disk_(std::move(disk)),
      clock_(clock),
      observer_(std::move(observer)) {
  if (disk_.num_slots() > 0) staging_.resize(static_cast<size_t>(cache_.block_bytes()));
}

int64_t KvMover::Size(KvMove::Tier tier) const {
  switch (tier) {
    case KvMove::Tier::kDevice:
      return cache_.num_blocks();
    case KvMove::Tier::kHost:
      return host_.num_slots();
    case KvMove::Tier::kDisk:
      return disk_.num_slots();
  }
  return 0;  // no such tier
}

absl::Status KvMover::Check(std::span<const KvMove> moves) const {
  for (size_t i = 0; i < moves.size(); ++i) {
    const KvMove& move = moves[i];
    for (const auto& [tier, index] :
         {std::pair(move.from, move.from_index), std::pair(move.to, move.to_index)}) {
      if (index < Size(tier)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("move ", i, " names ", NameOf(tier), " ", index, " of ", Size(tier)));
    }
    if (move.from == move.to) {
      return absl::InvalidArgumentError(
          absl::StrCat("move ", i, " stays in tier ", NameOf(move.from)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> KvMover::Run(std::span<const KvMove> moves,
                                                  const std::atomic<bool>& stop) {
  RETURN_IF_ERROR(Check(moves));
  std::vector<int32_t> failed;
  unfilled_.clear();
  for (size_t i = 0; i < moves.size(); ++i) {
    if (stop.load()) return absl::CancelledError("the rank stops");
    const KvMove& move = moves[i];
    const absl::Time begin = clock_.Now();
    absl::Status device;
    const absl::Status moved = Move(move, device);
    RETURN_IF_ERROR(device) << "move " << i << " from " << NameOf(move.from) << " "
                            << move.from_index << " to " << NameOf(move.to) << " " << move.to_index;
    const std::pair target(move.to, move.to_index);
    if (moved.ok()) {
      unfilled_.erase(target);
    } else {
      unfilled_.insert(target);
      failed.push_back(static_cast<int32_t>(i));
      if (failed.size() <= kMaxLogged) {
        LOG(WARNING) << "event=kv_move_failed from=" << NameOf(move.from)
                     << " from_index=" << move.from_index << " to=" << NameOf(move.to)
                     << " to_index=" << move.to_index << " why=\"" << moved << "\"";
      }
    }
    if (observer_) {
      observer_({.move = move,
                 .done = moved.ok(),
                 .bytes = cache_.block_bytes(),
                 .seconds = std::max(0.0, absl::ToDoubleSeconds(clock_.Now() - begin))});
    }
  }
  if (failed.size() > kMaxLogged) {
    LOG(WARNING) << "event=kv_moves_failed count=" << failed.size() << " of=" << moves.size();
  }
  return failed;
}

absl::Status KvMover::Move(const KvMove& move, absl::Status& device) {
  if (unfilled_.contains({move.from, move.from_index})) {
    return absl::NotFoundError("the move that was to fill its source failed");
  }
  switch (move.to) {
    case KvMove::Tier::kDevice:
      return MoveToDevice(move, device);
    case KvMove::Tier::kHost:
      return MoveToHost(move, device);
    case KvMove::Tier::kDisk:
      return MoveToDisk(move, device);
  }
  return absl::InternalError("no such tier");
}

absl::Status KvMover::MoveToDevice(const KvMove& move, absl::Status& device) {
  std::span<const uint8_t> bytes = staging_;
  if (move.from == KvMove::Tier::kHost) {
    ASSIGN_OR_RETURN(bytes, host_.Read(static_cast<int32_t>(move.from_index)));
  } else {
    RETURN_IF_ERROR(disk_.Load(static_cast<int32_t>(move.from_index), staging_));
  }
  device = backend_.CopyToDevice(bytes.data(), cache_.Block(static_cast<BlockId>(move.to_index)));
  return device;
}

absl::Status KvMover::MoveToHost(const KvMove& move, absl::Status& device) {
  const int32_t slot = static_cast<int32_t>(move.to_index);
  const std::span<uint8_t> bytes = host_.Open(slot);
  if (move.from == KvMove::Tier::kDevice) {
    device = backend_.CopyToHost(cache_.Block(static_cast<BlockId>(move.from_index)), bytes.data());
    RETURN_IF_ERROR(device);
  } else {
    RETURN_IF_ERROR(disk_.Load(static_cast<int32_t>(move.from_index), bytes));
  }
  host_.Seal(slot);
  return absl::OkStatus();
}

absl::Status KvMover::MoveToDisk(const KvMove& move, absl::Status& device) {
  std::span<const uint8_t> bytes = staging_;
  if (move.from == KvMove::Tier::kHost) {
    ASSIGN_OR_RETURN(bytes, host_.Read(static_cast<int32_t>(move.from_index)));
  } else {
    device =
        backend_.CopyToHost(cache_.Block(static_cast<BlockId>(move.from_index)), staging_.data());
    RETURN_IF_ERROR(device);
  }
  return disk_.Store(static_cast<int32_t>(move.to_index), bytes);
}

}  // namespace longhaul::worker::rank
