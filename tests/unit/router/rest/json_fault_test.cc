#include "router/rest/json_fault.h"

#include <gtest/gtest.h>

#include <iostream>
#include <random>

namespace longhaul::router::rest {
namespace {

struct Case {
  const char* name;
  std::string json;
  std::string path;
  std::string reason;  // a part of it
};

TEST(JsonFault, NamesTheFieldAtFault) {
  const Case cases[] = {
      {"lone high surrogate", R"({"model":"m","messages":[{"role":"user","content":"a\ud800b"}]})",
       "messages[0].content", "surrogate"},
      {"lone low surrogate", R"({"a":[1,{"b":"\udc00"}]})", "a[1].b", "surrogate"},
      {"two high surrogates", R"({"a":"\ud83d\ud83d"})", "a", "surrogate"},
      {"raw byte", "{\"a\":\"x\",\"stop\":[\"ok\",\"\xff\"]}", "stop[1]", "invalid UTF-8"},
      {"cut sequence", "{\"user\":\"\xf0\x9f\x98\"}", "user", "invalid UTF-8"},
      {"raw byte in a key", "{\"a\":{\"\xc0\x80\":1}}", "a", "a key with invalid UTF-8"},
      {"not a number", R"({"model":"NaN","temperature":NaN})", "temperature", "is NaN, which"},
      {"no number below", R"({"a":[1,-Infinity]})", "a[1]", "is -Infinity, which"},
      {"raw byte in a later key", "{\"messages\":[],\"\xff\":1}", "", "a key with invalid UTF-8"},
      {"huge integer", R"({"seed":123456789012345678901234567890})", "seed", "64-bit"},
      {"huge float", R"({"x":{"temperature":1e999}})", "x.temperature", "64-bit"},
      {"array of arrays", R"([[1],[2,"\udfff"]])", "[1][1]", "surrogate"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const std::optional<JsonFault> fault = FindJsonFault(c.json);
    ASSERT_TRUE(fault.has_value());
    EXPECT_EQ(fault->path, c.path);
    EXPECT_NE(fault->reason.find(c.reason), std::string::npos) << fault->reason;
  }
}

TEST(JsonFault, SeesNothingWrongInGoodJson) {
  for (const char* json :
       {R"({"a":"\ud83d\ude00 \\ud800 \"","b":[1,-2.5e3,true,null],"c":{"d":{}}})", "{}", "[]",
        "18446744073709551615", "-9223372036854775808", ""}) {
    EXPECT_FALSE(FindJsonFault(json).has_value()) << json;
  }
}

TEST(JsonFault, DeepNestingEndsTheSearch) {
  const std::optional<JsonFault> fault = FindJsonFault(std::string(1 << 20, '['));
  ASSERT_TRUE(fault.has_value());
  EXPECT_NE(fault->reason.find("the limit of 64 levels"), std::string::npos);
}

TEST(JsonFault, EndsOnAnyBytes) {
  const unsigned seed = std::random_device()();
  std::cout << "seed " << seed << std::endl;
  std::mt19937 random(seed);
  const std::string alphabet = "{}[]\",:\\ud8cF019-eE.\xff\xc3 ";
  for (int round = 0; round < 5000; round++) {
    std::string json;
    for (size_t i = random() % 60; i > 0; i--) json += alphabet[random() % alphabet.size()];
    const std::optional<JsonFault> fault = FindJsonFault(json);
    if (fault.has_value()) {
      EXPECT_FALSE(fault->reason.empty()) << json;
    }
  }
}

}  // namespace
}  // namespace longhaul::router::rest
