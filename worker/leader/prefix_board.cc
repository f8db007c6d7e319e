#include "worker/leader/prefix_board.h"

#include <algorithm>
#include <unordered_map>

namespace longhaul::worker::leader {

void PrefixBoard::Publish(const PrefixChanges& changes) {
  MutexLock lock(mutex_);
  for (const Digest& identity : changes.removed) {
    if (cached_.erase(identity) > 0) Note(identity, /*added=*/false);
  }
  for (const Digest& identity : changes.added) {
    if (cached_.size() >= kMaxPrefixes) return;
    if (cached_.insert(identity).second) Note(identity, /*added=*/true);
  }
}

void PrefixBoard::Note(const Digest& identity, bool added) {
  if (changes_.size() == kMaxChanges) {
    changes_.pop_front();
    ++first_;
  }
  changes_.emplace_back(identity, added);
}

PrefixBoard::News PrefixBoard::Since(uint64_t next, size_t max_changes) const {
  MutexLock lock(mutex_);
  const uint64_t end = first_ + changes_.size();
  if (next == 0 && end == 1) return {.next = 0};
  if (next < first_) {
    return {.reset = true, .added = {cached_.begin(), cached_.end()}, .removed = {}, .next = end};
  }
  const uint64_t last = std::min<uint64_t>(end, next + max_changes);
  std::unordered_map<Digest, bool, DigestHash> latest;
  for (uint64_t i = next; i < last; ++i) {
    const auto& [identity, added] = changes_[static_cast<size_t>(i - first_)];
    latest[identity] = added;
  }
  News news{.next = last};
  for (const auto& [identity, added] : latest) {
    (added ? news.added : news.removed).push_back(identity);
  }
  return news;
}

}  // namespace longhaul::worker::leader
