#include "worker/leader/sequence_pool.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace longhaul::worker::leader {
namespace {

// Blocks that come back from other tiers before one plan's units: of the 7B 0.9 GB.
constexpr int32_t kRestoredBlocksPerStep = 64;

void InsertInOrder(std::vector<Sequence*>& line, Sequence* sequence) {
  line.insert(std::upper_bound(line.begin(), line.end(), sequence, IsBefore), sequence);
}

// The known tokens at positions [begin, end). A span of the prompt, where it can be.
class KnownTokens {
 public:
  KnownTokens(const Sequence& s, int64_t begin, int64_t end) {
    if (end <= s.prompt_tokens()) {
      span_ = std::span(s.request.prompt).subspan(begin, end - begin);
      return;
    }
    copy_.reserve(end - begin);
    for (int64_t position = begin; position < end; ++position) copy_.push_back(s.token(position));
    span_ = copy_;
  }
  std::span<const TokenId> get() const { return span_; }

 private:
  std::vector<TokenId> copy_;
  std::span<const TokenId> span_;
};

// Whether it may need a block more than it holds or was promised.
bool WillGrow(const Sequence* s) {
  return BlocksFor(s->prompt_tokens() + s->request.stopping.max_tokens) >
         static_cast<int32_t>(s->blocks.size()) + s->promised_blocks;
}

}  // namespace

bool IsBefore(const Sequence* a, const Sequence* b) {
  if (a->request.priority != b->request.priority) return a->request.priority > b->request.priority;
  return a->order < b->order;
}

int64_t RestOf(const Sequence& s) { return s.known_tokens() - s.planned_tokens; }

bool MayPass(const Sequence& s, const Sequence& first) {
  return s.request.priority == first.request.priority && 2 * RestOf(s) < RestOf(first);
}

int32_t BlocksFor(int64_t tokens) {
  return static_cast<int32_t>((tokens + kKvBlockTokens - 1) / kKvBlockTokens);
}

SequencePool::SequencePool(const SchedulerLimits& limits, const PrefixRule& prefix)
    : limits_(limits), prefix_(prefix) {}

absl::Status SequencePool::CheckFits(int64_t prompt_tokens, int64_t max_tokens) const {
  if (prompt_tokens + max_tokens > limits_.max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt has ", prompt_tokens, " tokens and max_tokens is ", max_tokens, ", together ",
        prompt_tokens + max_tokens, "; limit ", limits_.max_model_len, " (--max-model-len)"));
  }
  // What the last incarnation held the next one holds too; before the first nothing is known.
  if (known_blocks_ > 0 && BlocksFor(prompt_tokens + max_tokens) > known_blocks_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt and max_tokens need ", BlocksFor(prompt_tokens + max_tokens), " KV blocks of ",
        kKvBlockTokens, " tokens; the group has ", known_blocks_, " (--kv-cache-gib)"));
  }
  return absl::OkStatus();
}

bool SequencePool::CanStart(int32_t num_blocks) const {
  return group_up_ && static_cast<int32_t>(running_.size()) < limits_.max_num_seqs &&
         num_blocks <= num_available();
}

absl::Status SequencePool::CheckRoom(int64_t prompt_tokens) const {
  if (waiting_.empty() && CanStart(BlocksFor(prompt_tokens))) return absl::OkStatus();
  if (static_cast<int32_t>(waiting_.size()) >= limits_.max_waiting) {
    return absl::ResourceExhaustedError(
        absl::StrCat(waiting_.size(), " requests wait, limit ", limits_.max_waiting));
  }
  if (prompt_tokens < limits_.long_prompt_tokens) return absl::OkStatus();
  const auto num_long = std::count_if(waiting_.begin(), waiting_.end(), [this](const Sequence* s) {
    return s->prompt_tokens() >= limits_.long_prompt_tokens;
  });
  if (num_long >= limits_.max_waiting_long) {
    return absl::ResourceExhaustedError(
        absl::StrCat(num_long, " prompts of ", limits_.long_prompt_tokens,
                     " tokens or more wait, limit ", limits_.max_waiting_long));
  }
  return absl::OkStatus();
}

Sequence& SequencePool::Enqueue(Request request) {
  auto owned = std::make_unique<Sequence>(std::move(request));
  Sequence& sequence = *owned;
  sequence.order = next_order_++;
  sequence.prefix_root = prefix_.RootOf(sequence.request);
  // Once: it is looked up each time that a place becomes free.
  if (Reuses(sequence)) {
    sequence.prefix_chain = PrefixChain(sequence.prefix_root, sequence.request.prompt);
  }
  sequences_.emplace(sequence.order, std::move(owned));
  InsertInOrder(waiting_, &sequence);
  StartWaiting();
  return sequence;
}

void SequencePool::End(Sequence& sequence) {
  CHECK(!sequence.ended) << "sequence=" << sequence.id;
  sequence.ended = true;
  std::erase(waiting_, &sequence);
  std::erase(running_, &sequence);
  std::erase(preempted_, &sequence);
  // The ranks run plans in order, so the end may travel behind plans that still name the sequence.
  if (sequence.told) unsent_ends_.push_back(sequence.id);
  if (sequence.plans_in_flight == 0) Forget(sequence);
}

void SequencePool::Forget(Sequence& sequence) {
  GiveBack(sequence);
  sequences_.erase(sequence.order);
  StartWaiting();
}

bool SequencePool::Reuses(const Sequence& s) const {
  // Each row of a prompt whose logprobs are asked for must run.
  return limits_.prefix_caching && s.request.shares_prefix &&
         !s.request.sampling.prompt_logprobs.has_value();
}

PrefixCache::Match SequencePool::Lookup(const Sequence& s) {
  // The last known token is run whatever is cached: its logits are wanted.
  return cache_.Acquire(s.prefix_root, KnownTokens(s, 0, s.known_tokens()).get(),
                        s.known_tokens() - 1, s.prefix_chain);
}

bool SequencePool::TakeCached(Sequence& s) {
  PrefixCache::Match match = Reuses(s) ? Lookup(s) : PrefixCache::Match{.last = s.prefix_root};
  const auto num_cached = static_cast<int32_t>(match.blocks.size());
  const int32_t needed = BlocksFor(s.known_tokens()) - num_cached;
  // Starting one more only to preempt it when the others grow would be waste.
  const auto growing = static_cast<int32_t>(std::ranges::count_if(running_, WillGrow));
  if (num_available() < needed + growing) {
    cache_.Release(match.blocks);
    return false;
  }
  s.blocks = std::move(match.blocks);
  s.published = match.last;
  s.published_blocks = num_cached;
  s.promised_blocks = needed;
  promised_ += needed;
  if (match.restorable > 0) s.restore_end = num_cached + match.restorable;
  return true;
}

bool SequencePool::Start(Sequence& s) {
  if (!TakeCached(s)) return false;
  s.id = next_sequence_id_++;
  Restored(s);
  s.running = true;
  std::erase(waiting_, &s);
  InsertInOrder(running_, &s);
  return true;
}

void SequencePool::Restored(Sequence& s) {
  s.cached_tokens = int64_t{s.published_blocks} * kKvBlockTokens;
  s.planned_tokens = s.processed_tokens = s.cached_tokens;
  if (s.preemptions == 0 && s.replays == 0) s.cached_prompt_tokens = s.cached_tokens;
  s.most_processed = std::max(s.most_processed, s.cached_tokens);
}

bool SequencePool::Refresh(Sequence& s) {
  if (s.told || s.restore_end > 0 || !Reuses(s)) return true;
  PrefixCache::Match match = Lookup(s);
  const auto more = static_cast<int32_t>(match.blocks.size() - s.blocks.size());
  if (more > 0) {
    std::swap(s.blocks, match.blocks);
    s.published = match.last;
    s.published_blocks = static_cast<int32_t>(s.blocks.size());
    s.promised_blocks -= more;
    promised_ -= more;
    Restored(s);
  }
  cache_.Release(match.blocks);
  return std::ranges::none_of(running_, [&s](const Sequence* r) {
    if (r == &s || r->plans_in_flight == 0 || r->prefix_root != s.prefix_root) return false;
    const auto end = std::ranges::mismatch(r->request.prompt, s.request.prompt).in2;
    const int64_t common = std::min<int64_t>(end - s.request.prompt.begin(), s.known_tokens() - 1);
    return common / kKvBlockTokens * kKvBlockTokens > r->processed_tokens;
  });
}

void SequencePool::StartWaiting() {
  const auto has_place = [this] {
    return group_up_ && static_cast<int32_t>(running_.size()) < limits_.max_num_seqs;
  };
  while (!waiting_.empty() && has_place()) {
    Sequence& head = *waiting_.front();
    if (!Start(head)) break;
    head.passed_head = false;
  }
  if (waiting_.empty() || !has_place()) return;
  const Sequence& head = *waiting_.front();
  for (Sequence* s : std::vector<Sequence*>(waiting_.begin() + 1, waiting_.end())) {
    int32_t lent = 0;  // blocks that come back to the head from those who passed it
    for (const Sequence* running : running_) {
      if (!running->passed_head) continue;
      lent += static_cast<int32_t>(running->blocks.size()) + running->promised_blocks;
    }
    if (num_available() + lent >= BlocksFor(head.known_tokens())) return;
    if (!MayPass(*s, head) || !CanStart(BlocksFor(s->known_tokens())) || !Start(*s)) continue;
    s->passed_head = true;
  }
}

int64_t SequencePool::CachedPromptTokens(const Sequence& s) const {
  if (s.running) return s.cached_prompt_tokens + int64_t{s.restore_end} * kKvBlockTokens;
  if (!Reuses(s)) return 0;
  return cache_.CachedTokens(s.prefix_root, s.request.prompt, s.prompt_tokens() - 1,
                             s.prefix_chain);
}

bool SequencePool::Grow(Sequence& s, int64_t end) {
  const int32_t missing = BlocksFor(end) - static_cast<int32_t>(s.blocks.size());
  if (missing <= 0) return true;
  const int32_t kept = std::min(missing, s.promised_blocks);
  while (num_available() < missing - kept) {
    Sequence& last = *running_.back();
    // One that a plan in flight names keeps its blocks until that retires, which is soon.
    if (&last == &s || last.plans_in_flight > 0) return false;
    Preempt(last);
  }
  s.promised_blocks -= kept;
  promised_ -= kept;
  const std::vector<BlockId> fresh = cache_.Allocate(missing).value();
  s.blocks.insert(s.blocks.end(), fresh.begin(), fresh.end());
  return true;
}

void SequencePool::GiveBack(Sequence& s) {
  promised_ -= std::exchange(s.promised_blocks, 0);
  cache_.Release(std::exchange(s.blocks, {}));
}

std::vector<KvMove> SequencePool::TakeMoves(StepId step) {
  int32_t left = kRestoredBlocksPerStep;
  for (Sequence* s : running_) {
    const auto held = static_cast<int32_t>(s->blocks.size());
    if (s->restore_end <= held || held > s->published_blocks || left == 0) continue;
    const int32_t count = std::min(s->restore_end - held, left);
    CHECK(Grow(*s, int64_t{held + count} * kKvBlockTokens)) << "sequence=" << s->id;
    const int32_t found = cache_.Restore(
        s->prefix_root, KnownTokens(*s, 0, s->known_tokens()).get(), s->blocks, held, count);
    left -= found;
    if (found < count) s->restore_end = held + found;  // the rest was evicted meanwhile
    if (s->restore_end <= s->published_blocks) s->restore_end = 0;
  }
  return cache_.TakeMoves(step);
}

void SequencePool::MovesDone(StepId step, std::span<const int32_t> failed) {
  cache_.MovesDone(step, failed);
  for (Sequence* s : running_) {
    if (s->restore_end == 0) continue;
    const auto next = [s] { return s->blocks[static_cast<size_t>(s->published_blocks)]; };
    while (s->published_blocks < static_cast<int32_t>(s->blocks.size()) &&
           cache_.complete(next())) {
      const int64_t begin = int64_t{s->published_blocks} * kKvBlockTokens;
      s->published =
          ExtendPrefix(s->published, KnownTokens(*s, begin, begin + kKvBlockTokens).get());
      ++s->published_blocks;
    }
    const bool failed_here =
        s->published_blocks < static_cast<int32_t>(s->blocks.size()) && !cache_.restoring(next());
    if (failed_here || s->published_blocks >= s->restore_end) s->restore_end = 0;
    Restored(*s);
  }
}

void SequencePool::Preempt(Sequence& s) {
  if (s.told) unsent_ends_.push_back(s.id);
  ++s.preemptions;
  preempted_.push_back(&s);
  std::erase(running_, &s);
  GiveBack(s);
  s.planned_tokens = s.processed_tokens = s.cached_tokens = 0;
  s.published_blocks = s.blocks_sent = s.restore_end = 0;
  s.running = s.told = s.cut = s.passed_head = false;
  InsertInOrder(waiting_, &s);
}

void SequencePool::Processed(Sequence& s, int64_t end) {
  s.processed_tokens = end;
  s.most_processed = std::max(s.most_processed, end);
  if (!limits_.prefix_caching || !s.request.shares_prefix) return;
  for (; int64_t{s.published_blocks + 1} * kKvBlockTokens <= end; ++s.published_blocks) {
    const int64_t begin = int64_t{s.published_blocks} * kKvBlockTokens;
    s.published = cache_.Publish(s.published_blocks == 0 ? s.prefix_root : s.published,
                                 KnownTokens(s, begin, begin + kKvBlockTokens).get(), begin,
                                 s.blocks[static_cast<size_t>(s.published_blocks)]);
  }
}

bool SequencePool::Retired(Sequence& s) {
  --s.plans_in_flight;
  if (!s.ended || s.plans_in_flight > 0) return false;
  Forget(s);
  return true;
}

void SequencePool::GroupUp(const KvCapacity& capacity) {
  CHECK(!group_up_ && running_.empty());
  cache_.GroupUp(capacity.blocks, {.host = capacity.host_slots, .disk = capacity.disk_slots},
                 capacity.disk_kept);
  known_blocks_ = capacity.blocks;
  group_up_ = true;
  next_sequence_id_ = 1;
  StartWaiting();
}

std::vector<Sequence*> SequencePool::GroupDown() {
  group_up_ = false;
  unsent_ends_.clear();
  preempted_.clear();
  promised_ = 0;
  cache_.GroupDown();
  std::erase_if(sequences_, [](const auto& entry) { return entry.second->ended; });
  std::vector<Sequence*> lost = std::exchange(running_, {});
  for (Sequence* s : lost) {
    s->blocks.clear();
    s->cached_tokens = s->planned_tokens = s->processed_tokens = 0;
    s->promised_blocks = s->published_blocks = s->restore_end = 0;
    s->blocks_sent = s->plans_in_flight = 0;
    s->sample_in_flight = s->told = s->cut = s->running = s->passed_head = false;
    InsertInOrder(waiting_, s);
  }
  return lost;
}

}  // namespace longhaul::worker::leader
