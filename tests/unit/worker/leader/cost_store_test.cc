#include "worker/leader/cost_store.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "worker/leader/cost_keeper.h"

namespace longhaul::worker::leader {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const CostCoefficients kCost = {
    .c = 0.0021, .g = 2.0e-8, .b = 1.0 / 3e5, .a = 3.3e-11, .reach_tokens = 8704};

class CostStoreTest : public ::testing::Test {
 protected:
  static CostStore::Key Key() {
    return {.model = {1, 2},
            .tensor_parallel_size = 2,
            .stage_layers = {14, 14},
            .kv_dtype = "fp32",
            .attention = "dca"};
  }
  CostStore Store(const CostStore::Key& key = Key()) const { return {folder(), key}; }
  std::string folder() const { return dir_.path() + "/costs/of/groups"; }
  // The only file in the folder.
  fs::path File() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(folder())) files.push_back(entry.path());
    EXPECT_THAT(files, SizeIs(1));
    return files.at(0);
  }
  std::string Text() const {
    std::ifstream file(File());
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void Replace(const std::string& old, const std::string& by) const {
    std::string text = Text();
    const size_t at = text.find(old);
    ASSERT_NE(at, std::string::npos) << text;
    std::ofstream(File()) << text.replace(at, old.size(), by);
  }

  const longhaul::testing::TempDir dir_;
};

TEST_F(CostStoreTest, FindsAgainWhatWasSaved) {
  EXPECT_THAT(Store().Load(), IsEmpty()) << "no folder yet";
  ASSERT_OK(Store().Save({.hardware = "2 x AMD EPYC \"7B13\"", .cost = kCost}));
  const std::vector<SavedCost> found = Store().Load();
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0].hardware, "2 x AMD EPYC \"7B13\"");
  EXPECT_EQ(found[0].cost.c, kCost.c) << "to the last bit";
  EXPECT_EQ(found[0].cost.g, kCost.g);
  EXPECT_EQ(found[0].cost.b, kCost.b);
  EXPECT_EQ(found[0].cost.a, kCost.a);
  EXPECT_EQ(found[0].cost.reach_tokens, kCost.reach_tokens);
}

TEST_F(CostStoreTest, KeepsOneOfEachHardwareTheNewest) {
  ASSERT_OK(Store().Save({.hardware = "a", .cost = kCost}));
  ASSERT_OK(Store().Save({.hardware = "b", .cost = kCost}));
  CostCoefficients newer = kCost;
  newer.b = 1;
  ASSERT_OK(Store().Save({.hardware = "a", .cost = newer}));
  std::vector<SavedCost> found = Store().Load();
  ASSERT_THAT(found, SizeIs(2));
  for (const SavedCost& saved : found) EXPECT_EQ(saved.cost.b == 1, saved.hardware == "a");
}

TEST_F(CostStoreTest, CostsOfAnotherGroupAreNoneOfOurs) {
  ASSERT_OK(Store().Save({.hardware = "a", .cost = kCost}));
  std::vector<CostStore::Key> others(5, Key());
  others[0].model = {1, 3};
  others[1].tensor_parallel_size = 1;
  others[2].stage_layers = {15, 13};
  others[3].kv_dtype = "bf16";
  others[4].attention = "rope";
  for (const CostStore::Key& other : others) EXPECT_THAT(Store(other).Load(), IsEmpty());
  for (const CostStore::Key& other : others) {
    ASSERT_OK(Store(other).Save({.hardware = "a", .cost = kCost}));
  }
  EXPECT_THAT(Store().Load(), SizeIs(1));
}

TEST_F(CostStoreTest, DamagedAndForeignFilesAreLeftOut) {
  const struct {
    const char* name;
    std::string old, by;
  } kCases[] = {
      {"another version", "\"version\": 1", "\"version\": 2"},
      {"a version that is no number", "\"version\": 1", "\"version\": {}"},
      {"a cost below zero", "\"a\": ", "\"a\": -"},
      {"a cost that is text", "\"a\": ", "\"a\": \"1\", \"x\": "},
      {"an infinite cost", "\"a\": ", "\"a\": 1e999, \"x\": "},
      {"a huge cost", "\"a\": ", "\"a\": 1e30, \"x\": "},
      {"no cost", "\"a\": ", "\"x\": "},
      {"no reach", "\"reach_tokens\": ", "\"reach_tokens\": 0, \"x\": "},
      {"a reach beyond all", "\"reach_tokens\": ", "\"reach_tokens\": 9e18, \"x\": "},
      {"stages that are no list", "\"stage_layers\": ", "\"stage_layers\": 3, \"x\": "},
      {"other hardware than its name says", "\"hardware\": \"a", "\"hardware\": \"b"},
      {"no JSON", "{", "("},
      {"bytes that are no text", "\"dca\"", "\"\xFF\xFE\""},
      {"another group's contents", "\"dca\"", "\"rope\""},
  };
  for (const auto& test : kCases) {
    SCOPED_TRACE(test.name);
    ASSERT_OK(Store().Save({.hardware = "a", .cost = kCost}));
    ASSERT_THAT(Store().Load(), SizeIs(1));
    Replace(test.old, test.by);
    EXPECT_THAT(Store().Load(), IsEmpty());
  }
  // Cut anywhere but before its last line's end, it is damaged.
  ASSERT_OK(Store().Save({.hardware = "a", .cost = kCost}));
  const std::string whole = Text();
  for (size_t size = 0; size + 1 < whole.size(); size += 7) {
    std::ofstream(File()) << whole.substr(0, size);
    EXPECT_THAT(Store().Load(), IsEmpty()) << size;
  }
  std::ofstream(File()) << whole << std::string(1 << 20, ' ');
  EXPECT_THAT(Store().Load(), IsEmpty()) << "far too long";
  const fs::path name = File();
  fs::remove(name);
  fs::create_directory(name);
  EXPECT_THAT(Store().Load(), IsEmpty()) << "a folder";
}

TEST_F(CostStoreTest, AllZeroIsNoCost) {
  ASSERT_OK(Store().Save({.hardware = "a", .cost = {.reach_tokens = 5000}}));
  EXPECT_THAT(Store().Load(), IsEmpty());
}

TEST_F(CostStoreTest, LeavesNoDraftBehind) {
  for (int i = 0; i < 3; ++i) ASSERT_OK(Store().Save({.hardware = "a", .cost = kCost}));
  File();  // is the only one
}

TEST_F(CostStoreTest, SaysWhyItCannotSave) {
  // A file where the folder should be.
  dir_.Write("costs", "");
  const absl::Status saved = Store().Save({.hardware = "a", .cost = kCost});
  EXPECT_FALSE(saved.ok());
  EXPECT_THAT(std::string(saved.message()), HasSubstr(folder()));
  EXPECT_THAT(Store().Load(), IsEmpty());
}

TEST_F(CostStoreTest, AFolderThatMayNotBeWrittenIsNoReasonToEnd) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  fs::create_directories(folder());
  chmod(folder().c_str(), 0500);
  EXPECT_EQ(Store().Save({.hardware = "a", .cost = kCost}).code(),
            absl::StatusCode::kPermissionDenied);
  chmod(folder().c_str(), 0700);
}

class CostKeeperTest : public CostStoreTest {
 protected:
  // Waits until costs with this b are saved.
  bool Saved(double b) const {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (absl::Now() < deadline) {
      const std::vector<SavedCost> found = Store().Load();
      if (found.size() == 1 && found[0].cost.b == b) return true;
      absl::SleepFor(absl::Milliseconds(2));
    }
    return false;
  }
  static SavedCost CostOf(double b) {
    SavedCost saved = {.hardware = "a", .cost = kCost};
    saved.cost.b = b;
    return saved;
  }
};

TEST_F(CostKeeperTest, SavesTheFirstAtOnceAndTheLastAtItsEnd) {
  CostKeeper keeper(Store(), absl::Hours(1));
  keeper.Keep(CostOf(1));
  EXPECT_TRUE(Saved(1));
  keeper.Keep(CostOf(2));
  keeper.Keep(CostOf(3));
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_TRUE(Saved(1)) << "not before the hour is over";
  keeper.Stop();
  EXPECT_TRUE(Saved(3));
  keeper.Keep(CostOf(4));
  keeper.Stop();
  EXPECT_TRUE(Saved(3)) << "over is over";
}

TEST_F(CostKeeperTest, SavesTheNewestOfEachPeriod) {
  CostKeeper keeper(Store(), absl::Milliseconds(10));
  for (double b = 1; b < 4; ++b) {
    keeper.Keep(CostOf(b));
    EXPECT_TRUE(Saved(b));
  }
}

TEST_F(CostKeeperTest, GoesOnAfterAFailure) {
  dir_.Write("costs", "");  // a file where the folder should be
  CostKeeper keeper(Store(), absl::Milliseconds(1));
  keeper.Keep(CostOf(1));
  absl::SleepFor(absl::Milliseconds(20));
  fs::remove(dir_.path() + "/costs");
  keeper.Keep(CostOf(2));
  EXPECT_TRUE(Saved(2));
}

TEST_F(CostKeeperTest, WithNothingToSaveItEnds) {
  { const CostKeeper keeper(Store()); }
  EXPECT_FALSE(fs::exists(folder()));
}

}  // namespace
}  // namespace longhaul::worker::leader
