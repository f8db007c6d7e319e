#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_set>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "common/types.h"
#include "worker/leader/prefix_index.h"

namespace longhaul::worker::leader {

// Which prefixes are cached, for routers: the set, and its last changes for those who follow it.
// The engine writes, streams read. Thread-safe.
//
// Bounded: what comes while kMaxPrefixes are in the set is left out for good; a reader who is more
// than kMaxChanges behind begins anew.
class PrefixBoard {
 public:
  static constexpr size_t kMaxPrefixes = 262'144;  // 67 million tokens
  static constexpr size_t kMaxChanges = 65'536;

  // What a reader does not know yet. Where `reset`, `added` is all there is, and what was known
  // before is void. None is in both lists; what is added may be known, what is removed unknown.
  struct News {
    bool reset = false;
    std::vector<Digest> added;
    std::vector<Digest> removed;
    uint64_t next = 0;  // what to ask for later
    bool empty() const { return !reset && added.empty() && removed.empty(); }
  };

  PrefixBoard() = default;
  PrefixBoard(const PrefixBoard&) = delete;
  PrefixBoard& operator=(const PrefixBoard&) = delete;

  void Publish(const PrefixChanges& changes) EXCLUDES(mutex_);

  // `next`: of the last news, 0 at first. At most `max_changes` of them, unless all has to be told.
  News Since(uint64_t next, size_t max_changes) const EXCLUDES(mutex_);

 private:
  // Identities are uniformly random.
  struct DigestHash {
    size_t operator()(const Digest& digest) const { return static_cast<size_t>(digest.low); }
  };
  void Note(const Digest& identity, bool added) REQUIRES(mutex_);

  mutable Mutex mutex_;
  std::unordered_set<Digest, DigestHash> cached_ GUARDED_BY(mutex_);
  std::deque<std::pair<Digest, bool>> changes_ GUARDED_BY(mutex_);  // true = added
  uint64_t first_ GUARDED_BY(mutex_) = 1;                           // number of changes_[0]
};

}  // namespace longhaul::worker::leader
