#include "router/rpc/request_parser.h"

#include <gmock/gmock.h>
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "longhaul/v1/inference.pb.h"
#include "router/error_detail.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::router::rpc {
namespace {

using google::protobuf::util::MessageDifferencer;
using longhaul::testing::StatusIs;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

// One of everything that a chat can have.
v1::ChatRequest FullChat() {
  v1::ChatRequest request;
  request.set_model("demo");
  for (const char* role : {"system", "user", "assistant"}) {
    v1::ChatMessage& message = *request.add_messages();
    message.set_role(role);
    message.set_content(absl::StrCat("Grüße von ", role, " 世界"));
  }
  v1::ToolCall& call = *request.mutable_messages(2)->add_tool_calls();
  call.set_id("call-1");
  call.mutable_function()->set_name("weather");
  call.mutable_function()->set_arguments_json("{}");
  request.mutable_messages(1)->set_tool_call_id("x");
  request.add_tools()->set_function_json("{\"name\": \"weather\"}");
  v1::GenerateOptions& options = *request.mutable_options();
  options.add_stop("END");
  options.add_stop("STOP");
  options.set_user("me");
  options.set_truncate_prompt_tokens(-1);
  v1::Sampling& sampling = *options.mutable_sampling();
  sampling.set_temperature(0.5f);
  sampling.set_seed(0xffffffffffffffff);
  (*sampling.mutable_logit_bias())[7] = -3.5f;
  for (const uint32_t id : {1u, 4'000'000'000u}) {
    options.mutable_stopping()->add_stop_token_ids(id);
  }
  return request;
}

std::string Replaced(std::string bytes, const std::string& from, const std::string& to) {
  EXPECT_EQ(from.size(), to.size());
  const size_t at = bytes.rfind(from);
  EXPECT_NE(at, std::string::npos) << from;
  return bytes.replace(at, from.size(), to);
}

TEST(ParseRequest, GivesTheMessageThatWasSent) {
  v1::ChatRequest chat;
  ASSERT_OK(ParseRequest(FullChat().SerializeAsString(), chat));
  EXPECT_TRUE(MessageDifferencer::Equals(chat, FullChat()));

  v1::CompleteRequest completion;
  for (uint32_t id = 0; id < 100'000; ++id) completion.mutable_prompt_ids()->add_ids(id * 41'000);
  v1::CompleteRequest parsed;
  ASSERT_OK(ParseRequest(completion.SerializeAsString(), parsed));
  EXPECT_TRUE(MessageDifferencer::Equals(parsed, completion));

  v1::ListModelsRequest nothing;
  EXPECT_OK(ParseRequest("", nothing));
}

TEST(ParseRequest, NamesTheFieldThatIsNoUtf8) {
  struct Case {
    const char* text;   // of FullChat
    const char* bytes;  // what stands there instead
    const char* field;
    int byte;
  };
  const Case cases[] = {
      {"demo", "de\xffo", "model", 2},
      {"system 世", "system \xe4\xb8\x41", "messages[0].content", 19},
      {"user 世", "user \xed\xa0\x80", "messages[1].content", 17},  // a surrogate
      {"assistant 世", "assistant \xc0\x80 ", "messages[2].content", 22},
      {"x", "\x80", "messages[1].tool_call_id", 0},
      {"call-1", "call-\xc3", "messages[2].tool_calls[0].id", 5},
      {"{}", "{\xf8", "messages[2].tool_calls[0].function.arguments_json", 1},
      {"\"name\"", "\"nam\xfe\"", "tools[0].function_json", 5},
      {"STOP", "STO\xff", "stop[1]", 3},
      {"me", "m\xff", "user", 1},
  };
  for (const Case& c : cases) {
    // The last of the same text, but a name that the field's own follows.
    std::string bytes = FullChat().SerializeAsString();
    if (std::string(c.text) == "x" || std::string(c.text) == "me") {
      const std::string with_length =
          absl::StrCat(std::string(1, static_cast<char>(std::string(c.text).size())), c.text);
      bytes = Replaced(bytes, with_length, with_length.substr(0, 1) + c.bytes);
    } else {
      bytes = Replaced(bytes, c.text, c.bytes);
    }
    v1::ChatRequest request;
    const absl::Status status = ParseRequest(bytes, request);
    EXPECT_THAT(status,
                StatusIs(kInvalid, absl::StrCat(c.field, " is not valid UTF-8 at byte ", c.byte)));
    EXPECT_EQ(DetailOf(status).field, c.field);
  }
}

TEST(ParseRequest, NamesWhatIsMalformedAndWhere) {
  struct Case {
    const char* name;
    std::string bytes;
    const char* field;
    const char* message;
  };
  const std::string message(
      "\x12\x05\x12\x7f"
      "abc");
  const Case cases[] = {
      {"noise", std::string(100, '\xff'), "",
       "the request is malformed at byte 0 of the request: "},
      {"a tag of 0", std::string(1, '\0'), "", "a field's tag is needed here"},
      {"half a tag", "\x8a", "", "a field's tag is needed here"},
      {"half a length", "\x0a\x80", "model", "a length is needed here"},
      {"a length beyond the end", "\x0a\x7f{}", "model", "a length is 127, 2 bytes are left"},
      {"a length of 2^31", "\x0a\x80\x80\x80\x80\x08", "model", "a length is 2147483648"},
      {"a length of 2^64", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "model",
       "a length is needed here"},
      {"within a message", message, "messages[0].content", "a length is 127, 3 bytes are left"},
      {"a number of 11 bytes", "\x08" + std::string(10, '\x80') + "\x01", "model", "cut short"},
      {"half a double",
       "\x79"
       "1234567",
       "", "a number is cut short"},
      {"half a float",
       "\x7d"
       "123",
       "", "a number is cut short"},
      {"the end of no group", "\x7c", "", "a field has the wire type 4"},
      {"wire type 7", "\x7f", "", "a field has the wire type 7"},
      {"a group without end", "\x7b\x08\x01", "", "a group has no end"},
      {"another group's end", "\x7b\x74", "", "a field has the wire type 4"},
      {"a packed list that is cut", std::string("\x22\x07\x12\x05\x22\x03\x01\x02\x80", 9),
       "stop_token_ids", "a number is cut short"},
  };
  for (const Case& c : cases) {
    v1::ChatRequest request;
    const absl::Status status = ParseRequest(c.bytes, request);
    EXPECT_THAT(status, StatusIs(kInvalid, HasSubstr(c.message))) << c.name;
    EXPECT_THAT(DetailOf(status).field, HasSubstr(c.field)) << c.name;
    EXPECT_EQ(DetailOf(status).field.empty(), std::string(c.field).empty()) << c.name;
  }
}

TEST(ParseRequest, FieldsOfOtherTypesAndNumbersAreSkipped) {
  v1::GetModelRequest request;
  // model as a number; fields 15 and 16, groups among them; then the model.
  const std::string bytes = std::string("\x08\x05\x7b\x08\x01\x7c\x82\x01\x02\xff\xfe", 11) +
                            "\x0a\x04"
                            "demo";
  ASSERT_OK(ParseRequest(bytes, request));
  EXPECT_EQ(request.model(), "demo");
}

TEST(ParseRequest, RefusesOneLevelMoreThanProtobuf) {
  const auto nested = [](int levels) {
    return std::string(static_cast<size_t>(levels), '\x7b') +
           std::string(static_cast<size_t>(levels), '\x7c');
  };
  v1::ChatRequest request;
  EXPECT_OK(ParseRequest(nested(kMaxMessageDepth), request));
  EXPECT_THAT(ParseRequest(nested(kMaxMessageDepth + 1), request),
              StatusIs(kInvalid, HasSubstr("more than 100 levels")));
  EXPECT_FALSE(request.ParseFromString(nested(kMaxMessageDepth + 1)));
  EXPECT_THAT(ParseRequest(std::string(10'000'000, '\x7b'), request),
              StatusIs(kInvalid, HasSubstr("more than 100 levels")));
}

TEST(ParseRequest, BoundsTheNumberOfFields) {
  const auto stops = [](int64_t count) {
    std::string bytes;
    for (int64_t i = 0; i < count; ++i) bytes += std::string("\x12\x00", 2);
    return bytes;
  };
  v1::ChatRequest request;
  EXPECT_OK(ParseRequest(stops(kMaxRequestFields), request));
  EXPECT_EQ(request.messages_size(), kMaxRequestFields);
  EXPECT_THAT(ParseRequest(stops(kMaxRequestFields + 1), request),
              StatusIs(kInvalid, HasSubstr("more fields than the limit, 1048576")));
}

// Whatever happens to the bytes: we accept what protobuf accepts.
TEST(ParseRequest, AgreesWithProtobufAboutDamagedRequests) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  const google::protobuf::LogSilencer silencer;  // it logs every string that is no UTF-8
  const std::string whole = FullChat().SerializeAsString();
  int num_valid = 0;
  constexpr int kRounds = 20'000;
  for (int round = 0; round < kRounds; ++round) {
    std::string bytes = whole;
    for (uint32_t i = 0, edits = 1 + random() % 4; i < edits && !bytes.empty(); ++i) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 8);
          break;
        case 2:
          bytes.insert(at, 1, static_cast<char>(random()));
          break;
        default:
          bytes.resize(at);
      }
    }
    v1::ChatRequest ours;
    v1::ChatRequest theirs;
    const absl::Status status = ParseRequest(bytes, ours);
    ASSERT_EQ(status.ok(), theirs.ParseFromString(bytes)) << status << " round " << round;
    if (status.ok()) {
      num_valid++;
      ASSERT_EQ(ours.SerializeAsString(), theirs.SerializeAsString());
    } else {
      // Not by luck: the walk saw it, and said where.
      ASSERT_THAT(std::string(status.message()), ::testing::Not(HasSubstr("is no longhaul")));
    }
  }
  EXPECT_GT(num_valid, kRounds / 50);
  EXPECT_LT(num_valid, kRounds - kRounds / 50);
}

}  // namespace
}  // namespace longhaul::router::rpc
