#include "worker/rank/disk_tier.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>
#include <vector>

#include "common/logging.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::StatusIs;
using ::longhaul::testing::TempDir;
using ::testing::HasSubstr;

constexpr int64_t kBlockBytes = 5000;
constexpr int32_t kSlots = 4;

class DiskTierTest : public ::testing::Test {
 protected:
  DiskTierTest()
      : path_(folder_.path() + "/rank0.kv"), seed_(std::random_device()()), random_(seed_) {
    std::cout << "seed " << seed_ << "\n";
    Reopen();
  }

  // As a rank that is started anew.
  void Reopen() {
    tier_ = DiskTier();
    auto tier = DiskTier::Open(path_, kSlots, kBlockBytes);
    CHECK(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }
  std::vector<uint8_t> RandomBlock() {
    std::vector<uint8_t> block(kBlockBytes);
    std::generate(block.begin(), block.end(), [this] { return static_cast<uint8_t>(random_()); });
    return block;
  }
  std::vector<uint8_t> Store(int32_t slot) {
    std::vector<uint8_t> block = RandomBlock();
    EXPECT_OK(tier_.Store(slot, block));
    return block;
  }
  absl::Status Load(int32_t slot) {
    std::vector<uint8_t> block(kBlockBytes);
    return tier_.Load(slot, block);
  }
  void Expect(int32_t slot, const std::vector<uint8_t>& block) {
    std::vector<uint8_t> loaded(kBlockBytes);
    ASSERT_OK(tier_.Load(slot, loaded));
    EXPECT_TRUE(loaded == block) << slot;
  }
  void FlipBit(int64_t byte) {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(byte);
    const int old = file.get();
    file.seekp(byte);
    file.put(static_cast<char>(old ^ (1 << (random_() % 8))));
    ASSERT_TRUE(file.good());
  }

  const TempDir folder_;
  const std::string path_;
  const uint32_t seed_;
  std::mt19937 random_;
  DiskTier tier_;
};

TEST_F(DiskTierTest, SlotsHoldWhatWasStoredAndAreUsedAgain) {
  const auto last = Store(3);
  const auto first = Store(0);
  Expect(3, last);
  Expect(0, first);
  const auto again = Store(3);
  Expect(3, again);
  Expect(0, first);
}

TEST_F(DiskTierTest, ASlotIsEmptyUntilSomethingIsStored) {
  EXPECT_TRUE(absl::IsNotFound(Load(0)));  // the file has no byte
  Store(2);
  EXPECT_TRUE(absl::IsNotFound(Load(0)));  // a hole
  EXPECT_TRUE(absl::IsNotFound(Load(3)));  // behind its end
}

TEST_F(DiskTierTest, ARankStartedAnewFindsItsBlocks) {
  const auto first = Store(0);
  const auto last = Store(3);
  Reopen();
  Expect(0, first);
  Expect(3, last);
  EXPECT_TRUE(absl::IsNotFound(Load(1)));
}

TEST_F(DiskTierTest, AFlippedBitInTheFileIsNoticed) {
  const int64_t slot = DiskTier::SlotBytes(kBlockBytes);
  // Of the block, its first and last byte among them; of magic, slot and checksum behind it.
  for (const int64_t byte :
       {int64_t{0}, static_cast<int64_t>(random_() % kBlockBytes), kBlockBytes - 1, kBlockBytes + 3,
        kBlockBytes + 8, kBlockBytes + 15, kBlockBytes + 16, kBlockBytes + 31}) {
    const auto neighbour = Store(2);
    Store(1);
    FlipBit(slot + byte);
    EXPECT_TRUE(absl::IsDataLoss(Load(1))) << "byte " << byte << ": " << Load(1);
    Expect(2, neighbour);
  }
}

TEST_F(DiskTierTest, ABlockInAnotherOnesPlaceIsNoticed) {
  Store(0);
  Store(1);
  std::string bytes(static_cast<size_t>(DiskTier::SlotBytes(kBlockBytes)), '\0');
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));  // the next slot
  file.close();
  EXPECT_OK(Load(0));
  EXPECT_TRUE(absl::IsDataLoss(Load(1))) << Load(1);
}

TEST_F(DiskTierTest, ATruncatedFileIsNoticedAndWrittenAgain) {
  const auto first = Store(0);
  Store(3);
  const int64_t slot = DiskTier::SlotBytes(kBlockBytes);
  std::filesystem::resize_file(path_, static_cast<uintmax_t>(3 * slot + kBlockBytes + 31));
  EXPECT_TRUE(absl::IsNotFound(Load(3))) << Load(3);
  std::filesystem::resize_file(path_, static_cast<uintmax_t>(3 * slot + 100));
  EXPECT_TRUE(absl::IsNotFound(Load(3))) << Load(3);
  Expect(0, first);
  const auto again = Store(3);
  Expect(3, again);
}

// Whatever part of a block was written before a rank died: the slot is empty or as it was.
TEST_F(DiskTierTest, AnInterruptedStoreLeavesTheSlotEmpty) {
  Store(1);
  const std::string block(kBlockBytes, 'x');
  const int64_t slot = DiskTier::SlotBytes(kBlockBytes);
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(slot);
  file.write(block.data(), 2000);
  file.close();
  EXPECT_TRUE(absl::IsDataLoss(Load(1))) << Load(1);
}

TEST_F(DiskTierTest, AFullDiskIsAnErrorAndHarmsNoOtherBlock) {
  const auto first = Store(0);
  const auto second = Store(1);
  const int64_t slot = DiskTier::SlotBytes(kBlockBytes);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit = {};
  getrlimit(RLIMIT_FSIZE, &old_limit);
  rlimit limit = old_limit;
  // Slots 0 and 1 fit, 2 does not; then a part of 1 neither, where a slot is overwritten.
  limit.rlim_cur = static_cast<rlim_t>(2 * slot);
  setrlimit(RLIMIT_FSIZE, &limit);
  const absl::Status beyond = tier_.Store(2, RandomBlock());
  limit.rlim_cur = static_cast<rlim_t>(slot + 1000);
  setrlimit(RLIMIT_FSIZE, &limit);
  const absl::Status part = tier_.Store(1, RandomBlock());
  setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_TRUE(absl::IsResourceExhausted(beyond)) << beyond;
  EXPECT_TRUE(absl::IsResourceExhausted(part)) << part;
  EXPECT_TRUE(absl::IsNotFound(Load(2))) << Load(2);
  Expect(0, first);
  Expect(1, second);  // nothing of it was overwritten
  const auto third = Store(2);
  Expect(2, third);
}

TEST_F(DiskTierTest, HasItsFileToItself) {
  EXPECT_THAT(DiskTier::Open(path_, kSlots, kBlockBytes).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("cannot lock")));
}

TEST_F(DiskTierTest, NamesTheFolderThatCannotBeWritten) {
  for (const std::string& path : {folder_.path() + "/none/rank0.kv", folder_.path()}) {
    EXPECT_THAT(DiskTier::Open(path, kSlots, kBlockBytes).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv-offload-dir")));
  }
}

TEST_F(DiskTierTest, DoesNotFollowALink) {
  const std::string target = folder_.Write("precious", "data");
  const std::string link = folder_.path() + "/rank1.kv";
  std::filesystem::create_symlink(target, link);
  EXPECT_THAT(DiskTier::Open(link, kSlots, kBlockBytes).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank1.kv")));
}

TEST_F(DiskTierTest, AMovedTierKeepsItsFile) {
  const auto block = Store(1);
  DiskTier other = std::move(tier_);
  std::vector<uint8_t> loaded(kBlockBytes);
  ASSERT_OK(other.Load(1, loaded));
  EXPECT_TRUE(loaded == block);
}

TEST(DiskTier, SlotsAreWholePagesAndHoldMoreThanTheBlock) {
  EXPECT_EQ(DiskTier::SlotBytes(1), 4096);
  EXPECT_EQ(DiskTier::SlotBytes(4064), 4096);
  EXPECT_EQ(DiskTier::SlotBytes(4065), 8192);
  EXPECT_EQ(DiskTier::SlotBytes(8192), 12288);
}

}  // namespace
}  // namespace longhaul::worker::rank
