#include "worker/model/safetensors.h"

#include <random>

#include "absl/strings/str_cat.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace longhaul::worker::model {
namespace {

using ::longhaul::testing::SafetensorsBuilder;
using ::longhaul::testing::StatusIs;
using ::longhaul::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;

absl::Status OpenBytes(const std::string& bytes) {
  const TempDir folder;
  return SafetensorsFile::Open(folder.Write("x.safetensors", bytes)).status();
}

TEST(SafetensorsFile, GivesTensorsByName) {
  SafetensorsBuilder builder;
  builder.Add("b", StoredType::kF32, {1, 2}, std::string(8, 'x'));
  builder.Add("a", StoredType::kBF16, {3}, "abcdef");
  builder.Add("scalar", StoredType::kI64, {}, std::string(8, 's'));
  builder.Add("empty", StoredType::kF16, {0, 5}, "");
  const TempDir folder;
  ASSERT_OK_AND_ASSIGN(const auto file,
                       SafetensorsFile::Open(folder.Write("x.safetensors", builder.Build())));
  ASSERT_EQ(file->tensors().size(), 4u);
  EXPECT_EQ(file->tensors()[0].name, "a");
  const StoredTensor* tensor = file->Find("a");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->type, StoredType::kBF16);
  EXPECT_EQ(tensor->Shape(), "[3]");
  EXPECT_EQ(tensor->size(), 3);
  EXPECT_EQ(std::string(tensor->data.begin(), tensor->data.end()), "abcdef");
  EXPECT_EQ(file->Find("scalar")->size(), 1);
  EXPECT_EQ(file->Find("empty")->size(), 0);
  EXPECT_EQ(file->Find("c"), nullptr);
}

TEST(SafetensorsFile, NamesTheFileItCannotRead) {
  EXPECT_THAT(SafetensorsFile::Open("/nowhere/x.safetensors").status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nowhere/x.safetensors")));
  const TempDir folder;
  EXPECT_THAT(SafetensorsFile::Open(folder.path()).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a regular file")));
}

// One tensor entry.
std::string Entry(const std::string& name, const std::string& type, const std::string& shape,
                  const std::string& offsets) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", type, "\",\"shape\":", shape,
                      ",\"data_offsets\":", offsets, "}");
}

struct HostileHeader {
  const char* name;
  std::string header;
  size_t data_bytes;
  const char* error;
};

TEST(SafetensorsFile, RefusesHostileHeadersAndNamesTheTensor) {
  const std::string deep(5000, '[');
  const HostileHeader kCases[] = {
      {"not json", "hello", 0, "JSON"},
      {"an array", "[]", 0, "JSON"},
      {"empty", "", 0, "JSON"},
      {"cut short", "{\"w\":{\"dtype\":\"F32\",\"shape\":[1", 0, "JSON"},
      {"text after the object", "{} x", 0, "JSON"},
      {"another object after it", "{}{}", 0, ""},
      {"deep", "{\"w\":" + deep + "}", 0, ""},
      {"deep metadata", "{\"__metadata__\":{\"a\":" + deep + "}}", 0, ""},
      {"metadata of numbers", "{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
      {"entry is a number", "{\"w\":1}", 0, "'w'"},
      {"no dtype", "{\"w\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'w'"},
      {"dtype is a number", "{\"w\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'w'"},
      {"unknown dtype", "{" + Entry("w", "F31", "[1]", "[0,4]") + "}", 4, "'F31'"},
      {"unknown key", "{\"w\":{\"dtype\":\"F32\",\"x\":1}}", 4, "'x'"},
      {"dtype twice", "{\"w\":{\"dtype\":\"F32\",\"dtype\":\"F16\"}}", 4, "'dtype'"},
      {"negative dimension", "{" + Entry("w", "F32", "[-1]", "[0,4]") + "}", 4, "'w'"},
      {"fractional dimension", "{" + Entry("w", "F32", "[1.0]", "[0,4]") + "}", 4, "'w'"},
      {"dimension above 2^64", "{" + Entry("w", "F32", "[18446744073709551616]", "[0,4]") + "}", 4,
       "'w'"},
      {"dimension above 2^63", "{" + Entry("w", "F32", "[9223372036854775808]", "[0,4]") + "}", 4,
       "2^63"},
      {"size overflows", "{" + Entry("w", "F32", "[4294967296,4294967296]", "[0,4]") + "}", 4,
       "overflows"},
      {"size overflows to fit", "{" + Entry("w", "U8", "[4294967296,4294967296]", "[0,0]") + "}", 0,
       "overflows"},
      {"nine dimensions", "{" + Entry("w", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") + "}", 4,
       "more than 8"},
      {"shape and bytes disagree", "{" + Entry("w", "F32", "[2]", "[0,4]") + "}", 4, "[2]"},
      {"dtype and bytes disagree", "{" + Entry("w", "BF16", "[1]", "[0,4]") + "}", 4, "BF16"},
      {"end before begin", "{" + Entry("w", "F32", "[1]", "[4,0]") + "}", 4, "'w'"},
      {"beyond the file", "{" + Entry("w", "F32", "[2]", "[0,8]") + "}", 4, "'w'"},
      {"far beyond the file",
       "{" + Entry("w", "U8", "[1]", "[18446744073709551614,18446744073709551615]") + "}", 4,
       "'w'"},
      {"one offset", "{" + Entry("w", "F32", "[1]", "[4]") + "}", 4, "two entries"},
      {"three offsets", "{" + Entry("w", "F32", "[1]", "[0,4,8]") + "}", 4, "more than 2"},
      {"overlap",
       "{" + Entry("v", "F32", "[2]", "[0,8]") + "," + Entry("w", "F32", "[2]", "[4,12]") + "}", 12,
       "'w' at bytes [4, 12) overlaps"},
      {"the same bytes twice",
       "{" + Entry("v", "F32", "[1]", "[0,4]") + "," + Entry("w", "F32", "[1]", "[0,4]") + "}", 4,
       "overlaps"},
      {"a hole",
       "{" + Entry("v", "F32", "[1]", "[0,4]") + "," + Entry("w", "F32", "[1]", "[8,12]") + "}", 12,
       "'w'"},
      {"bytes of nobody at the end", "{" + Entry("w", "F32", "[1]", "[0,4]") + "}", 5,
       "byte 4 of 5"},
      {"duplicate name",
       "{" + Entry("w", "F32", "[1]", "[0,4]") + "," + Entry("w", "F32", "[1]", "[4,8]") + "}", 8,
       "'w' is there twice"},
      {"control characters in a name", "{" + Entry("\\u0007\\n", "F31", "[1]", "[0,4]") + "}", 4,
       "\\x07\\n"},
      {"a very long name", "{" + Entry(std::string(100000, 'n'), "F31", "[1]", "[0,4]") + "}", 4,
       "..."},
  };
  for (const HostileHeader& test : kCases) {
    const absl::Status status =
        OpenBytes(SafetensorsBuilder::Raw(test.header, std::string(test.data_bytes, 'd')));
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument,
                                 AllOf(HasSubstr("x.safetensors"), HasSubstr(test.error))))
        << test.name;
    EXPECT_LT(status.message().size(), 1000u) << test.name;
  }
}

TEST(SafetensorsFile, RefusesHeaderLengthsThatLie) {
  EXPECT_THAT(OpenBytes(""), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0 bytes")));
  EXPECT_THAT(OpenBytes("1234567"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("7 bytes")));
  const auto with_length = [](uint64_t length, const std::string& rest) {
    return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + rest;
  };
  EXPECT_THAT(OpenBytes(with_length(3, "{}")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("truncated")));
  EXPECT_THAT(OpenBytes(with_length(~uint64_t{0}, "{}")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("limit 100000000")));
  EXPECT_THAT(OpenBytes(with_length(uint64_t{1} << 63, "{}")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("limit")));
}

TEST(SafetensorsFile, SurvivesEveryTruncationAndRandomDamage) {
  SafetensorsBuilder builder;
  builder.Add("first", StoredType::kF32, {2, 2}, std::string(16, 'x'));
  builder.Add("second", StoredType::kBF16, {3}, "abcdef");
  const std::string good = builder.Build();
  EXPECT_OK(OpenBytes(good));
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(OpenBytes(good.substr(0, size)).ok()) << size;
  }
  const uint32_t seed = std::random_device()();
  std::cout << "seed " << seed << "\n";
  std::mt19937 random(seed);
  for (int i = 0; i < 100; ++i) {
    std::string bad = good;
    for (int flips = 0; flips < 3; ++flips) {
      bad[random() % bad.size()] = static_cast<char>(random());
    }
    const TempDir folder;
    const auto file = SafetensorsFile::Open(folder.Write("x.safetensors", bad));
    if (!file.ok()) continue;
    // What opens is consistent, whatever it says.
    for (const StoredTensor& tensor : (*file)->tensors()) {
      EXPECT_EQ(tensor.size() * StoredTypeBytes(tensor.type),
                static_cast<int64_t>(tensor.data.size()));
    }
  }
}

}  // namespace
}  // namespace longhaul::worker::model
