#include "common/text/python_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/testing/status_matchers.h"

namespace longhaul::text {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::StatusIs;

TEST(ToPythonJson, WritesWhatPythonWrites) {
  struct Case {
    const char* json;
    const char* python;
  };
  const Case cases[] = {
      {"{}", "{}"},
      {" [ ] ", "[]"},
      {"null", "null"},
      {"[true,false,null]", "[true, false, null]"},
      {R"({"b":1,"a":{"c":[1,{"d":2}]}})", R"({"b": 1, "a": {"c": [1, {"d": 2}]}})"},
      {R"("\u00e9\u4f60\ud83d\ude00")", "\"\u00E9\u4F60\U0001F600\""},
      {R"("\"\\\/\b\f\n\r\t\u0000\u001f\u007f\u2028")",
       "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7F\u2028\""},
      {"[0,-0,-1,18446744073709551615,18446744073709551616,-99999999999999999999]",
       "[0, 0, -1, 18446744073709551615, 18446744073709551616, -99999999999999999999]"},
      {"[0.0,-0.0,1.0,1e0,0.1,100.5,123456.789]", "[0.0, -0.0, 1.0, 1.0, 0.1, 100.5, 123456.789]"},
      {"[1e15,1e16,1.5e16,123456789012345678.0]",
       "[1000000000000000.0, 1e+16, 1.5e+16, 1.2345678901234568e+17]"},
      {"[0.0001,0.00001,0.00012345,5e-324,1.7976931348623157e308]",
       "[0.0001, 1e-05, 0.00012345, 5e-324, 1.7976931348623157e+308]"},
      {R"({"a":1,"b":2,"a":[3]})", R"({"a": [3], "b": 2})"},
  };
  for (const Case& c : cases) {
    ASSERT_OK_AND_ASSIGN(const std::string python, ToPythonJson(c.json));
    EXPECT_EQ(python, c.python);
  }
}

TEST(ToPythonJson, RefusesWhatIsNoJsonAndSaysWhatIsWrong) {
  struct Case {
    std::string json;
    const char* message;
  };
  const char* const kString = "a string has a control character, an unknown escape, half of a";
  const Case cases[] = {
      {"", "invalid JSON at byte 1: it ends too early"},
      {"{", "invalid JSON at byte 2: it ends too early"},
      {"\"a", "at byte 3: it ends too early"},
      {"[1", "at byte 3: it ends too early"},
      {"[1,]", "at byte 4: unexpected ']'"},
      {"{'a': 1}", "at byte 2: unexpected '''"},
      {"[1] x", "at byte 5: unexpected 'x'"},
      {"NaN", "at byte 1: unexpected 'N'"},
      {"{\"a\" \"b\"}", "at byte 8: unexpected '\"'"},
      {"[\xFF]", "at byte 2: unexpected byte 255"},
      {std::string("[\0]", 3), "at byte 2: unexpected byte 0"},
      {"\"\\ud800\"", kString},
      {"\"\\x\"", kString},
      {"\"\n\"", kString},
      {"\"\xFF\"", kString},
      {"[1e999]", "a number is beyond the range of floats"},
  };
  for (const Case& c : cases) {
    const auto python = ToPythonJson(c.json);
    EXPECT_THAT(python, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.message)))
        << c.json;
    EXPECT_THAT(std::string(python.status().message()), Not(HasSubstr("exception"))) << c.json;
  }
}

TEST(ToPythonJson, BoundsTheDepth) {
  const std::string deepest = std::string(100, '[') + std::string(100, ']');
  ASSERT_OK_AND_ASSIGN(const std::string python, ToPythonJson(deepest));
  EXPECT_EQ(python, deepest);
  EXPECT_THAT(ToPythonJson("[" + deepest + "]"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("more than 100 nested")));
}

TEST(ToPythonJson, ManyKeysTakeLinearTime) {
  std::string json = "{";
  for (int i = 0; i < 100000; ++i) json += "\"key" + std::to_string(i) + "\":0,";
  json += "\"last\":1}";
  ASSERT_OK_AND_ASSIGN(const std::string python, ToPythonJson(json));
  EXPECT_EQ(python.size(), json.size() + 100000 * 2 + 1);
}

}  // namespace
}  // namespace longhaul::text
