#include "common/config.h"

#include <gtest/gtest.h>

#include "common/flags.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::StatusIs;

struct DemoConfig {
  int32_t port = 8000;
  double fraction = 0.5;
  bool eager = false;
  std::string device = "cpu";
  std::vector<std::string> workers;
};

template <typename V>
void VisitFields(V&& v, DemoConfig& c) {
  v("port", c.port, Bounds{0, 65535}, "Port.");
  v("fraction", c.fraction, Bounds{0, 1}, "Fraction.");
  v("enforce-eager", c.eager, "Eager.");
  v("device", c.device, OneOf{{"cpu", "cuda"}}, "Device.");
  v("worker", c.workers, "Workers.");
}

class ConfigTest : public ::testing::Test {
 protected:
  absl::Status Yaml(const std::string& text) {
    return ApplyYamlFile(FieldsOf(config_), dir_.Write("c.yaml", text));
  }

  // Parses a command line as a program does.
  absl::Status Parse(std::vector<std::string> args) {
    CLI::App app;
    ConfigFlags flags;
    flags.AddTo(app, FieldsOf(config_));
    std::reverse(args.begin(), args.end());  // CLI11 wants the vector so
    app.parse(args);
    return flags.Resolve();
  }

  DemoConfig config_;
  testing::TempDir dir_;
};

TEST_F(ConfigTest, YamlSetsEveryType) {
  EXPECT_OK(Yaml("port: 9\nfraction: 0.25\nenforce-eager: true\ndevice: cuda\nworker: [a, b]\n"));
  EXPECT_EQ(config_.port, 9);
  EXPECT_EQ(config_.fraction, 0.25);
  EXPECT_TRUE(config_.eager);
  EXPECT_EQ(config_.device, "cuda");
  EXPECT_THAT(config_.workers, ElementsAre("a", "b"));
}

TEST_F(ConfigTest, UnknownKeyNamesLineAndNearest) {
  EXPECT_THAT(
      Yaml("port: 1\nfracton: 2\n"),
      StatusIs(absl::StatusCode::kNotFound,
               AllOf(HasSubstr(":2:"), HasSubstr("\"fracton\""), HasSubstr("\"fraction\""))));
}

TEST_F(ConfigTest, WrongYamlIsRefusedWithThePlace) {
  const struct {
    const char* name;
    const char* yaml;
    const char* expected;
  } kCases[] = {
      {"text for a number", "port: many\n", "port is \"many\", must be a whole number"},
      {"number out of int32", "port: 99999999999\n", "must be a whole number"},
      {"list for a number", "port: [1]\n", "must be a single value"},
      {"mapping for text", "device: {a: b}\n", "must be a plain value"},
      {"not a mapping", "- 1\n", "must be a mapping"},
      {"not YAML", "port: [1\n", "not YAML"},
  };
  for (const auto& test : kCases) {
    SCOPED_TRACE(test.name);
    EXPECT_THAT(Yaml(test.yaml),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(test.expected)));
  }
}

TEST_F(ConfigTest, FlagOverridesFileAndFileOverridesDefault) {
  const std::string file = dir_.Write("c.yaml", "port: 9\nfraction: 0.25\nworker: [a, b]\n");
  EXPECT_OK(Parse({"--config", file, "--port", "10", "--worker", "x", "--worker", "y"}));
  EXPECT_EQ(config_.port, 10);
  EXPECT_EQ(config_.fraction, 0.25);
  EXPECT_EQ(config_.device, "cpu");
  EXPECT_THAT(config_.workers, ElementsAre("x", "y"));
}

TEST_F(ConfigTest, ABareSwitchIsTrue) {
  EXPECT_OK(Parse({"--enforce-eager", "--port", "1"}));
  EXPECT_TRUE(config_.eager);
  EXPECT_OK(Parse({"--enforce-eager=false"}));
  EXPECT_FALSE(config_.eager);
}

TEST_F(ConfigTest, LimitsAreCheckedWhereverTheValueCameFrom) {
  EXPECT_THAT(Parse({"--port", "65536"}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("port is 65536, must be from 0 to 65535")));
  config_.port = 1;
  EXPECT_THAT(Parse({"--fraction", "nan"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("fraction")));
  config_.fraction = 0;
  EXPECT_THAT(Parse({"--device", "tpu"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("must be one of cpu, cuda")));
}

TEST(BoundsText, WritesWholeNumbersInFull) {
  EXPECT_EQ(BoundsText({0, 1 << 20}), "0 to 1048576");
  EXPECT_EQ(BoundsText({0.001, 5}), "0.001 to 5");
}

TEST_F(ConfigTest, MissingFileIsNamed) {
  EXPECT_THAT(ApplyYamlFile(FieldsOf(config_), dir_.path()),  // a directory
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(dir_.path())));
  EXPECT_THAT(ApplyYamlFile(FieldsOf(config_), dir_.path() + "/none.yaml"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none.yaml")));
}

}  // namespace
}  // namespace longhaul
