#include "worker/model/model_digest.h"

#include <filesystem>
#include <fstream>

#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace longhaul::worker::model {
namespace {

using ::longhaul::testing::StatusIs;
using ::longhaul::testing::TempDir;
using ::longhaul::testing::TinyModel;
using ::testing::HasSubstr;

Digest DigestOf(const TinyModel& model) {
  const TempDir folder;
  model.Write(folder.path());
  const auto digest = ModelDigest(folder.path());
  EXPECT_OK(digest);
  return digest.value_or(Digest{});
}

TEST(ModelDigest, IsThatOfTheContentNotOfTheFiles) {
  EXPECT_EQ(DigestOf({}), DigestOf({}));
  EXPECT_EQ(DigestOf({.num_files = 3}), DigestOf({}));
}

TEST(ModelDigest, ChangesWithWeightsTypesAndConfiguration) {
  const Digest digest = DigestOf({});
  EXPECT_NE(DigestOf({.seed = 2}), digest);
  EXPECT_NE(DigestOf({.type = StoredType::kBF16}), digest);
  EXPECT_NE(DigestOf({.tied = true}), digest);
  const TempDir folder;
  TinyModel{}.Write(folder.path());
  std::ofstream(folder.path() + "/config.json", std::ios::app) << "\n";
  ASSERT_OK_AND_ASSIGN(const Digest changed, ModelDigest(folder.path()));
  EXPECT_NE(changed, digest);
}

TEST(ModelDigest, SeesFirstAndLastBytesOfEveryTensor) {
  const TempDir folder;
  TinyModel{}.Write(folder.path());
  ASSERT_OK_AND_ASSIGN(const Digest digest, ModelDigest(folder.path()));
  const std::string path = folder.path() + "/model.safetensors";
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  file.put('!');
  file.close();
  ASSERT_OK_AND_ASSIGN(const Digest changed, ModelDigest(folder.path()));
  EXPECT_NE(changed, digest);
}

TEST(DummyModelDigest, IsThatOfConfigurationAndTokenizer) {
  const TempDir folder;
  TinyModel{}.Write(folder.path());
  ASSERT_OK_AND_ASSIGN(const Digest stored, ModelDigest(folder.path()));
  ASSERT_OK_AND_ASSIGN(const Digest digest, DummyModelDigest(folder.path()));
  EXPECT_NE(digest, stored);
  std::filesystem::remove(folder.path() + "/model.safetensors");
  ASSERT_OK_AND_ASSIGN(const Digest without_weights, DummyModelDigest(folder.path()));
  EXPECT_EQ(without_weights, digest);
  std::ofstream(folder.path() + "/tokenizer.json") << "{}";
  ASSERT_OK_AND_ASSIGN(const Digest with_tokenizer, DummyModelDigest(folder.path()));
  EXPECT_NE(with_tokenizer, digest);
  std::ofstream(folder.path() + "/config.json", std::ios::app) << "\n";
  ASSERT_OK_AND_ASSIGN(const Digest changed, DummyModelDigest(folder.path()));
  EXPECT_NE(changed, with_tokenizer);
}

TEST(ModelDigest, NeedsAConfiguration) {
  const TempDir folder;
  EXPECT_THAT(ModelDigest(folder.path()).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("config.json")));
  EXPECT_THAT(DummyModelDigest(folder.path()).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("config.json")));
}

}  // namespace
}  // namespace longhaul::worker::model
