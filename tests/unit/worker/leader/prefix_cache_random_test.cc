// PrefixCache against ranks that are arrays of contents: whatever is done in which order, a
// sequence reads from its blocks what its tokens say.
#include <algorithm>
#include <deque>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/testing/status_matchers.h"
#include "worker/leader/prefix_cache.h"

namespace longhaul::worker::leader {
namespace {

using Tier = KvMove::Tier;

// What a KV block holds: everything that decides its bytes, spelled out. Empty = nothing.
using Content = std::string;

// Carries out plans in order. Reading or copying what is not there is an error that tests see.
class SimulatedRank {
 public:
  struct Read {
    BlockId block;
    Content expected;
  };
  struct Plan {
    StepId step = 0;
    std::vector<KvMove> moves;
    std::vector<Read> reads;   // before the writes
    std::vector<Read> writes;  // `expected` is what they bring
  };

  void Resize(int32_t blocks, const TierSlots& slots, bool keep_disk) {
    tiers_[0].assign(static_cast<size_t>(blocks), "");
    tiers_[1].assign(static_cast<size_t>(slots.host), "");
    if (!keep_disk) tiers_[2].assign(static_cast<size_t>(slots.disk), "");
  }

  std::vector<int32_t> Execute(const Plan& plan, std::mt19937& random, double failure_rate) {
    std::vector<int32_t> failed;
    std::set<std::pair<Tier, uint32_t>> unfilled;  // targets of those that failed
    for (size_t i = 0; i < plan.moves.size(); ++i) {
      const KvMove& move = plan.moves[i];
      const Content& from = At(move.from, move.from_index);
      // A block on the device may be copied whatever it holds, as memory is; others are checked.
      const bool fails = (move.from != Tier::kDevice && from.empty()) ||
                         unfilled.contains({move.from, move.from_index}) ||
                         std::bernoulli_distribution(failure_rate)(random);
      EXPECT_FALSE(move.from == Tier::kDevice && from.empty()) << "copies a block never written";
      EXPECT_NE(move.from, move.to);
      if (!fails) {
        unfilled.erase({move.to, move.to_index});
        At(move.to, move.to_index) = from;
        continue;
      }
      failed.push_back(static_cast<int32_t>(i));
      unfilled.emplace(move.to, move.to_index);
      // What was there before may still be there, and read well in a later plan.
      if (random() % 2 == 0) At(move.to, move.to_index) = "";
    }
    for (const Read& read : plan.reads) {
      EXPECT_EQ(At(Tier::kDevice, static_cast<uint32_t>(read.block)), read.expected)
          << "step " << plan.step << " reads block " << read.block;
    }
    for (const Read& write : plan.writes) {
      At(Tier::kDevice, static_cast<uint32_t>(write.block)) = write.expected;
    }
    return failed;
  }

 private:
  Content& At(Tier tier, uint32_t index) { return tiers_[static_cast<size_t>(tier)].at(index); }

  std::array<std::vector<Content>, 3> tiers_;
};

// A prompt is a word over few letters, one a block: prompts share prefixes often.
struct Prompt {
  Digest root;
  std::string letters;

  std::vector<TokenId> Tokens() const {
    std::vector<TokenId> tokens;
    for (const char letter : letters) {
      for (int i = 0; i < kKvBlockTokens; ++i) tokens.push_back(letter * 1000 + i);
    }
    return tokens;
  }
  Content ContentOf(size_t block) const {
    return root.ToString() + " " + letters.substr(0, block + 1);
  }
};

struct Job {
  Prompt prompt;
  std::vector<TokenId> tokens;
  std::vector<BlockId> blocks;
  size_t done = 0;  // blocks that hold what they should
  size_t planned = 0;
  size_t restore_end = 0;
  int plans_in_flight = 0;
  bool ended = false;
  Digest published;
};

class World {
 public:
  World(uint32_t seed, int32_t blocks, const TierSlots& slots, double failure_rate)
      : random_(seed), num_blocks_(blocks), slots_(slots), failure_rate_(failure_rate) {
    rank_.Resize(blocks, slots, false);
    cache_.GroupUp(blocks, slots);
  }

  void Step() {
    switch (Below(8)) {
      case 0:
      case 1:
        return Start();
      case 2:
      case 3:
        return Plan();
      case 4:
      case 5:
        return Retire();
      case 6:
        return End();
      default:
        if (Below(40) == 0) TakeAll();
        if (Below(150) == 0) Restart();
    }
  }
  void Check() {
    std::set<BlockId> held;
    for (const auto& job : jobs_) held.insert(job->blocks.begin(), job->blocks.end());
    ASSERT_GE(cache_.num_referenced(), static_cast<int32_t>(held.size()));
    ASSERT_EQ(cache_.num_available(), num_blocks_ - cache_.num_referenced());
    const PrefixChanges changes = cache_.TakeChanges();
    for (const Digest& identity : changes.added) ASSERT_TRUE(announced_.insert(identity).second);
    for (const Digest& identity : changes.removed) ASSERT_EQ(announced_.erase(identity), 1u);
  }
  void Finish() {
    while (!plans_.empty()) Retire();
    while (!jobs_.empty()) End();
    Plan();
    Retire();
    EXPECT_EQ(cache_.num_referenced(), 0);
    EXPECT_EQ(cache_.num_available(), num_blocks_);
    Check();
    // Everything that is cached can be evicted, and then nothing but the lower tiers is announced.
    TakeAll();
    EXPECT_EQ(cache_.num_cached(Tier::kDevice), 0);
    Check();
    EXPECT_LE(announced_.size(), static_cast<size_t>(slots_.host + slots_.disk));
  }
  int64_t reused() const { return reused_; }
  int64_t restored() const { return restored_; }
  const std::vector<uint32_t>& moves() const { return moves_; }

 private:
  uint32_t Below(uint32_t limit) { return static_cast<uint32_t>(random_() % limit); }
  int32_t held_jobs() const { return static_cast<int32_t>(jobs_.size()); }

  void Start() {
    if (held_jobs() >= 6) return;
    auto job = std::make_unique<Job>();
    job->prompt.root = {7, Below(8) == 0 ? 1u : 0u};
    const uint32_t length = 1 + Below(12);
    while (job->prompt.letters.size() < length) {
      job->prompt.letters += Below(5) == 0 ? 'b' : 'a';
    }
    job->tokens = job->prompt.Tokens();
    const std::vector<TokenId>& tokens = job->tokens;
    const int64_t limit = std::ssize(tokens) - (Below(2) == 0 ? 1 : 0);
    const int64_t predicted = cache_.CachedTokens(job->prompt.root, tokens, limit);
    std::vector<Digest> chain = PrefixChain(job->prompt.root, tokens);
    chain.resize(Below(static_cast<uint32_t>(chain.size()) + 1));
    PrefixCache::Match match = cache_.Acquire(job->prompt.root, tokens, limit, chain);
    EXPECT_EQ(match.tokens(), predicted);
    EXPECT_LE(match.tokens() + match.restorable * kKvBlockTokens, limit);
    for (const Digest& identity : PrefixChain(
             job->prompt.root, std::span(tokens).first(static_cast<size_t>(match.tokens())))) {
      EXPECT_TRUE(announced_.contains(identity));
      EXPECT_TRUE(identity != Digest{});
    }
    job->blocks = std::move(match.blocks);
    job->done = job->planned = job->blocks.size();
    job->published = match.last;
    reused_ += static_cast<int64_t>(job->done);
    const auto missing = static_cast<int32_t>(length - job->done);
    const int32_t available = cache_.num_available();
    auto fresh = cache_.Allocate(missing);
    EXPECT_EQ(fresh.ok(), missing <= available);
    if (!fresh.ok()) return cache_.Release(job->blocks);
    EXPECT_EQ(cache_.num_available(), available - missing);
    job->blocks.insert(job->blocks.end(), fresh->begin(), fresh->end());
    if (Below(4) > 0) job->restore_end = job->done + static_cast<size_t>(match.restorable);
    jobs_.push_back(std::move(job));
  }

  void RestoreSome(Job& job) {
    while (job.planned < job.restore_end) {
      const int32_t found =
          cache_.Restore(job.prompt.root, job.tokens, job.blocks, static_cast<int32_t>(job.planned),
                         static_cast<int32_t>(1 + Below(4)));
      job.planned += static_cast<size_t>(found);
      restored_ += found;
      if (found == 0) job.restore_end = job.planned;
      if (Below(2) == 0) return;
    }
  }

  void Plan() {
    if (plans_.size() >= 3) return;
    SimulatedRank::Plan plan{.step = ++step_};
    for (const auto& job : jobs_) {
      if (job->ended || Below(3) == 0) continue;
      if (job->restore_end > job->done) {
        RestoreSome(*job);
        continue;
      }
      const size_t end = std::min(job->blocks.size(), job->planned + Below(4));
      if (end == job->planned) continue;
      for (size_t i = 0; i < job->planned; ++i) {
        plan.reads.push_back({job->blocks[i], job->prompt.ContentOf(i)});
      }
      for (size_t i = job->planned; i < end; ++i) {
        EXPECT_FALSE(cache_.complete(job->blocks[i])) << "others may read it";
        plan.writes.push_back({job->blocks[i], job->prompt.ContentOf(i)});
      }
      job->planned = end;
      ++job->plans_in_flight;
      written_.push_back({step_, job.get(), end});
    }
    plan.moves = cache_.TakeMoves(step_);
    EXPECT_LE(
        std::ranges::count_if(plan.moves, [](const KvMove& m) { return m.to != Tier::kDevice; }),
        PrefixCache::kMaxMovesDown);
    for (const KvMove& move : plan.moves) {
      moves_.insert(moves_.end(), {static_cast<uint32_t>(move.from), move.from_index,
                                   static_cast<uint32_t>(move.to), move.to_index});
    }
    plans_.push_back(std::move(plan));
  }

  void Retire() {
    if (plans_.empty()) return;
    const SimulatedRank::Plan plan = std::move(plans_.front());
    plans_.pop_front();
    cache_.MovesDone(plan.step, rank_.Execute(plan, random_, failure_rate_));
    for (const auto& job : jobs_) FollowRestore(*job);
    while (!written_.empty() && written_.front().step == plan.step) {
      const Written written = written_.front();
      written_.pop_front();
      Publish(*written.job, written.end);
      --written.job->plans_in_flight;
    }
    std::erase_if(jobs_, [this](const auto& job) { return ReleaseIfOver(*job); });
  }

  void FollowRestore(Job& job) {
    if (job.restore_end <= job.done) return;
    while (job.done < job.planned && cache_.complete(job.blocks[job.done])) {
      job.published = ExtendPrefix(job.published, BlockTokens(job, job.done++));
    }
    if (job.done == job.planned || cache_.restoring(job.blocks[job.done])) return;
    // One has failed: it and all that follow are computed, also those that still are on their way.
    job.restore_end = job.planned = job.done;
  }

  void Publish(Job& job, size_t end) {
    const int32_t available = cache_.num_available();
    for (; job.done < end; ++job.done) {
      job.published =
          cache_.Publish(job.published, BlockTokens(job, job.done),
                         static_cast<int64_t>(job.done) * kKvBlockTokens, job.blocks[job.done]);
    }
    EXPECT_EQ(cache_.num_available(), available);
  }

  void End() {
    if (jobs_.empty()) return;
    const size_t chosen = Below(static_cast<uint32_t>(jobs_.size()));
    jobs_[chosen]->ended = true;
    if (ReleaseIfOver(*jobs_[chosen])) jobs_.erase(jobs_.begin() + static_cast<ptrdiff_t>(chosen));
  }
  bool ReleaseIfOver(Job& job) {
    if (!job.ended || job.plans_in_flight > 0) return false;
    cache_.Release(job.blocks);
    return true;
  }

  void TakeAll() {
    auto all = cache_.Allocate(cache_.num_available());
    ASSERT_OK(all);
    EXPECT_EQ(cache_.num_available(), 0);
    EXPECT_FALSE(cache_.Allocate(1).ok());
    cache_.Release(*all);
  }

  void Restart() {
    const bool disk_kept = Below(2) == 0;
    plans_.clear();
    written_.clear();
    jobs_.clear();
    cache_.GroupDown();
    EXPECT_EQ(cache_.num_available(), 0);
    rank_.Resize(num_blocks_, slots_, disk_kept);
    cache_.GroupUp(num_blocks_, slots_, disk_kept);
    step_ = 0;
  }

  static std::span<const TokenId> BlockTokens(const Job& job, size_t block) {
    return std::span(job.tokens).subspan(block * kKvBlockTokens, kKvBlockTokens);
  }

  struct Written {
    StepId step;
    Job* job;
    size_t end;
  };

  std::mt19937 random_;
  const int32_t num_blocks_;
  const TierSlots slots_;
  const double failure_rate_;
  SimulatedRank rank_;
  PrefixCache cache_;
  std::vector<std::unique_ptr<Job>> jobs_;
  std::deque<SimulatedRank::Plan> plans_;
  std::deque<Written> written_;
  std::set<Digest> announced_;
  StepId step_ = 0;
  int64_t reused_ = 0;
  int64_t restored_ = 0;
  std::vector<uint32_t> moves_;
};

struct Setting {
  const char* name;
  int32_t blocks;
  TierSlots slots;
  double failure_rate;
};

class PrefixCacheRandomTest : public ::testing::TestWithParam<Setting> {};

TEST_P(PrefixCacheRandomTest, EveryBlockHoldsWhatItsTokensSay) {
  const Setting& setting = GetParam();
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed=" << seed);
  std::vector<uint32_t> moves[2];
  for (std::vector<uint32_t>& taken : moves) {
    World world(seed, setting.blocks, setting.slots, setting.failure_rate);
    for (int i = 0; i < 4000; ++i) {
      world.Step();
      world.Check();
      if (::testing::Test::HasFailure()) FAIL() << "in step " << i;
    }
    world.Finish();
    EXPECT_GT(world.reused(), 100);
    EXPECT_GE(world.restored(), setting.slots.host + setting.slots.disk >= 10 ? 10 : 0);
    taken = world.moves();
  }
  EXPECT_EQ(moves[0], moves[1]) << "the same calls gave other moves";
}

INSTANTIATE_TEST_SUITE_P(
    Settings, PrefixCacheRandomTest,
    ::testing::Values(Setting{"DeviceAlone", 30, {}, 0},
                      Setting{"HostAndDisk", 30, {.host = 8, .disk = 12}, 0},
                      Setting{"HostAlone", 24, {.host = 10, .disk = 0}, 0},
                      Setting{"DiskAlone", 24, {.host = 0, .disk = 10}, 0},
                      Setting{"OneSlotEach", 20, {.host = 1, .disk = 1}, 0},
                      Setting{"LargeDisk", 16, {.host = 4, .disk = 200}, 0},
                      Setting{"FailingMoves", 24, {.host = 8, .disk = 12}, 0.1},
                      Setting{"FailingDisk", 20, {.host = 0, .disk = 10}, 0.3}),
    [](const auto& setting) { return setting.param.name; });

}  // namespace
}  // namespace longhaul::worker::leader
