#include "worker/rank/kv_mover.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <random>

#include "common/clock.h"
#include "common/logging.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "worker/backend/cpu_backend.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::StatusIs;
using ::longhaul::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kDevice = KvMove::Tier::kDevice;
constexpr auto kHost = KvMove::Tier::kHost;
constexpr auto kDisk = KvMove::Tier::kDisk;

// A cache of 4 blocks in 2 layers, 3 slots in memory and 3 on disk.
class KvMoverTest : public ::testing::Test {
 protected:
  KvMoverTest()
      : path_(folder_.path() + "/rank0.kv"),
        backend_(backend::MakeCpuBackend(1)),
        cache_(MakeCache(*backend_)),
        seed_(std::random_device()()),
        random_(seed_) {
    std::cout << "seed " << seed_ << "\n";
    Start();
  }
  static KvCache MakeCache(backend::Backend& backend) {
    auto cache = KvCache::Create(backend, {.num_kv_heads = 1, .head_dim = 16}, 2, 4);
    CHECK(cache.ok()) << cache.status();
    return *std::move(cache);
  }
  // As a rank that is started anew.
  void Start() {
    mover_.reset();
    auto host = HostTier::Create(3, cache_.block_bytes());
    auto disk = DiskTier::Open(path_, 3, cache_.block_bytes());
    CHECK(host.ok() && disk.ok()) << disk.status();
    for (int32_t slot = 0; slot < 3; ++slot) host_bytes_[slot] = host->Open(slot);
    mover_ = std::make_unique<KvMover>(
        cache_, *backend_, *std::move(host), *std::move(disk), clock_,
        [this](const KvMover::Outcome& outcome) { outcomes_.push_back(outcome); });
  }

  std::span<uint8_t> Block(BlockId id) const {
    const TensorView block = cache_.Block(id);
    return {static_cast<uint8_t*>(block.data), static_cast<size_t>(block.bytes())};
  }
  std::vector<uint8_t> Fill(BlockId id) {
    const std::span<uint8_t> block = Block(id);
    std::generate(block.begin(), block.end(), [this] { return static_cast<uint8_t>(random_()); });
    return {block.begin(), block.end()};
  }
  void Poison() {
    for (BlockId id = 0; id < 4; ++id) std::ranges::fill(Block(id), 0xFF);
  }
  bool Holds(BlockId id, const std::vector<uint8_t>& bytes) const {
    return std::ranges::equal(Block(id), bytes);
  }
  // Indices of failed moves.
  std::vector<int32_t> Failed(const std::vector<KvMove>& moves) {
    const auto failed = mover_->Run(moves, stop_);
    EXPECT_OK(failed);
    return failed.ok() ? *failed : std::vector<int32_t>{-1};
  }
  void FlipBitOnDisk(int32_t slot) {
    const int64_t byte = slot * DiskTier::SlotBytes(cache_.block_bytes()) +
                         static_cast<int64_t>(random_() % cache_.block_bytes());
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(byte);
    const int old = file.get();
    file.seekp(byte);
    file.put(static_cast<char>(old ^ 64));
  }

  const TempDir folder_;
  const std::string path_;
  const std::unique_ptr<backend::Backend> backend_;
  const KvCache cache_;
  const SystemClock clock_;
  const uint32_t seed_;
  std::mt19937 random_;
  std::span<uint8_t> host_bytes_[3];
  std::vector<KvMover::Outcome> outcomes_;
  std::unique_ptr<KvMover> mover_;
  std::atomic<bool> stop_ = false;
};

TEST_F(KvMoverTest, BlocksComeBackOverEveryWay) {
  const std::vector<KvMove> kWays[] = {
      {{kDevice, 1, kHost, 2}, {kHost, 2, kDevice, 3}},
      {{kDevice, 1, kDisk, 2}, {kDisk, 2, kDevice, 3}},
      {{kDevice, 1, kHost, 0}, {kHost, 0, kDisk, 1}, {kDisk, 1, kHost, 2}, {kHost, 2, kDevice, 3}},
      {{kDevice, 1, kDisk, 0}, {kDisk, 0, kHost, 1}, {kHost, 1, kDevice, 3}},
  };
  for (const std::vector<KvMove>& way : kWays) {
    const auto bytes = Fill(1);
    // One plan a move, the device overwritten between.
    for (const KvMove& move : way) {
      ASSERT_THAT(Failed({move}), IsEmpty());
      Poison();
    }
    ASSERT_THAT(Failed({way.back()}), IsEmpty());
    EXPECT_TRUE(Holds(3, bytes));
    EXPECT_FALSE(Holds(2, bytes));
    // All in one plan.
    const auto others = Fill(1);
    ASSERT_THAT(Failed(way), IsEmpty());
    EXPECT_TRUE(Holds(3, others));
    EXPECT_TRUE(Holds(1, others));
  }
}

TEST_F(KvMoverTest, MovesOfAPlanAreDoneInOrder) {
  const auto first = Fill(0);
  const auto second = Fill(1);
  // Exchanges two blocks over one slot each, then uses a slot again.
  ASSERT_THAT(Failed({{kDevice, 0, kHost, 0},
                      {kDevice, 1, kDisk, 0},
                      {kHost, 0, kDevice, 1},
                      {kDisk, 0, kDevice, 0},
                      {kDevice, 0, kHost, 0},
                      {kHost, 0, kDevice, 2}}),
              IsEmpty());
  EXPECT_TRUE(Holds(0, second));
  EXPECT_TRUE(Holds(1, first));
  EXPECT_TRUE(Holds(2, second));
}

TEST_F(KvMoverTest, AFlippedBitInMemoryFailsTheMoveAndNoOther) {
  const auto good = Fill(0);
  Fill(1);
  ASSERT_THAT(Failed({{kDevice, 0, kHost, 0}, {kDevice, 1, kHost, 1}, {kDevice, 1, kHost, 2}}),
              IsEmpty());
  Poison();
  host_bytes_[1][random_() % host_bytes_[1].size()] ^= 1;
  host_bytes_[2][random_() % host_bytes_[2].size()] ^= 128;
  EXPECT_THAT(Failed({{kHost, 1, kDevice, 1}, {kHost, 0, kDevice, 0}, {kHost, 2, kDisk, 0}}),
              ElementsAre(0, 2));
  EXPECT_TRUE(Holds(0, good));
  EXPECT_EQ(Block(1)[0], 0xFF);  // no wrong byte came
  // The checksum is not made anew on the way: nothing is on disk.
  EXPECT_THAT(Failed({{kDisk, 0, kDevice, 2}}), ElementsAre(0));
}

TEST_F(KvMoverTest, AFlippedBitInTheFileFailsTheMoveAndNoOther) {
  const auto good = Fill(0);
  Fill(1);
  ASSERT_THAT(Failed({{kDevice, 0, kDisk, 0}, {kDevice, 1, kDisk, 1}}), IsEmpty());
  Poison();
  FlipBitOnDisk(1);
  EXPECT_THAT(Failed({{kDisk, 1, kDevice, 1}, {kDisk, 0, kDevice, 0}, {kDisk, 1, kHost, 1}}),
              ElementsAre(0, 2));
  EXPECT_TRUE(Holds(0, good));
  EXPECT_EQ(Block(1)[0], 0xFF);
  EXPECT_THAT(Failed({{kHost, 1, kDevice, 1}}), ElementsAre(0));  // nothing came there
}

TEST_F(KvMoverTest, WhatDependsOnAFailedMoveFailsToo) {
  Fill(0);
  const auto good = Fill(1);
  // Slot 1 holds nothing, so device block 0 is not filled: what it held before goes nowhere.
  EXPECT_THAT(Failed({{kHost, 1, kDevice, 0},
                      {kDevice, 0, kDisk, 0},
                      {kDisk, 0, kHost, 0},
                      {kDevice, 1, kHost, 2},
                      {kHost, 2, kDevice, 0},  // fills it after all
                      {kDevice, 0, kDisk, 0}}),
              ElementsAre(0, 1, 2));
  Poison();
  EXPECT_THAT(Failed({{kDisk, 0, kDevice, 3}}), IsEmpty());
  EXPECT_TRUE(Holds(3, good));
}

TEST_F(KvMoverTest, AnEmptySlotFailsTheMove) {
  EXPECT_THAT(Failed({{kHost, 0, kDevice, 0}, {kDisk, 0, kDevice, 0}, {kDisk, 2, kHost, 0}}),
              ElementsAre(0, 1, 2));
}

TEST_F(KvMoverTest, ARankStartedAnewHasItsDiskAndNoMemory) {
  const auto bytes = Fill(0);
  ASSERT_THAT(Failed({{kDevice, 0, kHost, 0}, {kDevice, 0, kDisk, 1}}), IsEmpty());
  Poison();
  Start();
  EXPECT_THAT(Failed({{kHost, 0, kDevice, 1}, {kDisk, 1, kDevice, 2}}), ElementsAre(0));
  EXPECT_TRUE(Holds(2, bytes));
}

TEST_F(KvMoverTest, RefusesWhatDoesNotExistBeforeAnythingMoves) {
  const struct {
    const char* error;
    KvMove move;
  } kCases[] = {
      {"move 1 names device 4 of 4", {kDevice, 4, kHost, 0}},
      {"move 1 names device 4 of 4", {kHost, 0, kDevice, 4}},
      {"move 1 names host 3 of 3", {kDevice, 0, kHost, 3}},
      {"move 1 names disk 3 of 3", {kDisk, 3, kDevice, 0}},
      {"move 1 names disk 4294967295 of 3", {kHost, 0, kDisk, ~0u}},
      {"move 1 stays in tier host", {kHost, 0, kHost, 1}},
  };
  for (const auto& test : kCases) {
    EXPECT_THAT(mover_->Run(std::vector<KvMove>{{kDevice, 0, kHost, 0}, test.move}, stop_).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(test.error)));
  }
  EXPECT_THAT(Failed({{kHost, 0, kDevice, 0}}), ElementsAre(0));  // the first move was not done
}

TEST_F(KvMoverTest, WithoutTiersThereIsNothingToName) {
  KvMover none(cache_, *backend_, HostTier(), DiskTier(), clock_);
  EXPECT_THAT(none.Run(std::vector<KvMove>{{kDevice, 0, kHost, 0}}, stop_).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("host 0 of 0")));
  EXPECT_OK(none.Run({}, stop_));
}

TEST_F(KvMoverTest, StopsBetweenMoves) {
  stop_ = true;
  EXPECT_THAT(mover_->Run(std::vector<KvMove>{{kDevice, 0, kHost, 0}}, stop_).status(),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("stops")));
}

TEST_F(KvMoverTest, TellsWhatBecameOfEachMove) {
  Failed({{kDevice, 0, kHost, 2}, {kDisk, 1, kDevice, 3}});
  ASSERT_EQ(outcomes_.size(), 2u);
  EXPECT_TRUE(outcomes_[0].done);
  EXPECT_EQ(outcomes_[0].move.to_index, 2u);
  EXPECT_EQ(outcomes_[0].bytes, cache_.block_bytes());
  EXPECT_GE(outcomes_[0].seconds, 0);
  EXPECT_FALSE(outcomes_[1].done);
  EXPECT_EQ(outcomes_[1].move.from, kDisk);
}

}  // namespace
}  // namespace longhaul::worker::rank
