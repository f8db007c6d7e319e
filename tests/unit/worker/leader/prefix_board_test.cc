#include "worker/leader/prefix_board.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

namespace longhaul::worker::leader {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Digest Id(uint64_t i) { return {i, i * 0x9E3779B97F4A7C15ULL}; }

// What a router makes of the news.
class Reader {
 public:
  void Read(const PrefixBoard& board, size_t max_changes) {
    while (true) {
      const PrefixBoard::News news = board.Since(next_, max_changes);
      next_ = news.next;
      if (news.empty()) return;
      resets_ += news.reset ? 1 : 0;
      if (news.reset) known_.clear();
      known_.insert(news.added.begin(), news.added.end());
      for (const Digest& identity : news.removed) known_.erase(identity);
    }
  }
  const std::set<Digest>& known() const { return known_; }
  int resets() const { return resets_; }

 private:
  std::set<Digest> known_;
  uint64_t next_ = 0;
  int resets_ = 0;
};

TEST(PrefixBoard, HasNoNewsAtFirst) {
  PrefixBoard board;
  EXPECT_TRUE(board.Since(0, 10).empty());
}

TEST(PrefixBoard, TellsANewReaderAllAndThenChanges) {
  PrefixBoard board;
  board.Publish({.added = {Id(1), Id(2)}, .removed = {}});
  board.Publish({.added = {Id(3)}, .removed = {Id(2)}});
  PrefixBoard::News news = board.Since(0, 1);
  EXPECT_TRUE(news.reset);
  EXPECT_THAT(news.added, ::testing::UnorderedElementsAre(Id(1), Id(3)));
  EXPECT_THAT(news.removed, IsEmpty());
  EXPECT_TRUE(board.Since(news.next, 10).empty());
  board.Publish({.added = {Id(4)}, .removed = {Id(1)}});
  news = board.Since(news.next, 10);
  EXPECT_FALSE(news.reset);
  EXPECT_THAT(news.added, ElementsAre(Id(4)));
  EXPECT_THAT(news.removed, ElementsAre(Id(1)));
}

TEST(PrefixBoard, AReaderThatIsTooFarBehindBeginsAnew) {
  PrefixBoard board;
  board.Publish({.added = {Id(1)}, .removed = {}});
  Reader slow;
  slow.Read(board, 100);
  Reader quick;
  for (size_t i = 0; i < PrefixBoard::kMaxChanges; ++i) {
    board.Publish({.added = {Id(i + 2)}, .removed = {Id(i + 1)}});
    if (i % 1000 == 0) quick.Read(board, 4096);
  }
  for (Reader* reader : {&slow, &quick}) {
    reader->Read(board, 4096);
    EXPECT_THAT(reader->known(), ElementsAre(Id(PrefixBoard::kMaxChanges + 1)));
  }
  EXPECT_EQ(slow.resets(), 2);
  EXPECT_EQ(quick.resets(), 1);
}

TEST(PrefixBoard, LeavesOutWhatIsTooMuch) {
  PrefixBoard board;
  PrefixChanges all;
  for (size_t i = 0; i < PrefixBoard::kMaxPrefixes; ++i) all.added.push_back(Id(i + 1));
  board.Publish(all);
  const uint64_t next = board.Since(0, 1).next;
  board.Publish({.added = {Id(0)}, .removed = {}});
  EXPECT_TRUE(board.Since(next, 1).empty());
  board.Publish({.added = {Id(0)}, .removed = {Id(1)}});
  EXPECT_THAT(board.Since(next, 10).added, ElementsAre(Id(0)));
}

TEST(PrefixBoard, ReadersThatReadAtRandomTimesKnowTheSet) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  PrefixBoard board;
  std::set<Digest> cached;
  std::vector<Reader> readers(5);
  for (int step = 0; step < 2000; ++step) {
    PrefixChanges changes;
    for (int i = 0; i < 3; ++i) {
      const Digest identity = Id(random() % 50 + 1);
      if (std::ranges::find(changes.added, identity) != changes.added.end() ||
          std::ranges::find(changes.removed, identity) != changes.removed.end()) {
        continue;
      }
      const bool known = cached.contains(identity);
      (known ? changes.removed : changes.added).push_back(identity);
      if (known) {
        cached.erase(identity);
      } else {
        cached.insert(identity);
      }
    }
    board.Publish(changes);
    Reader& reader = readers[random() % readers.size()];
    reader.Read(board, 1 + random() % 10);
    ASSERT_EQ(reader.known(), cached);
  }
}

}  // namespace
}  // namespace longhaul::worker::leader
