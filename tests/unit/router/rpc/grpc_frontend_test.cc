// The gRPC side of a router, from a client's stub to a faked leader.
#include "router/rpc/grpc_frontend.h"

#include <gmock/gmock.h>

#include "absl/strings/str_cat.h"
#include "tests/testing/grpc_fixture.h"

namespace longhaul::router::rpc {
namespace {

using longhaul::testing::FakeBehavior;
using ::testing::HasSubstr;

using longhaul::testing::Executions;

using GrpcFrontendTest = longhaul::testing::GrpcTest;

TEST_F(GrpcFrontendTest, ChatStreamsQueuedProgressDeltasFinished) {
  worker_->SetBehavior(Saying("The pass key is 28884."));
  v1::ChatRequest request = Chat("What is the pass key?");
  request.mutable_options()->set_request_id("my-id");
  const Answer answer = Ask(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text, "The pass key is 28884.");
  ASSERT_GE(answer.events.size(), 4u);
  EXPECT_EQ(answer.events.front().queued().request_id(), "my-id");
  EXPECT_TRUE(answer.events[1].has_progress());
  const v1::Finished& finished = answer.events.back().finished();
  EXPECT_EQ(finished.reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(finished.usage().prompt_tokens(), answer.events.front().queued().prompt_tokens());
  EXPECT_GT(finished.time_to_first_token_seconds(), 0);
}

TEST_F(GrpcFrontendTest, CompleteTakesTokenIds) {
  v1::CompleteRequest request;
  request.set_model("demo");
  for (const uint32_t id : {11u, 12u, 13u}) request.mutable_prompt_ids()->add_ids(id);
  request.mutable_options()->mutable_stopping()->set_max_tokens(2);
  request.mutable_options()->mutable_sampling()->set_seed(1);
  grpc::ClientContext context;
  const auto reader = stub_->Complete(&context, request);
  std::vector<uint32_t> tokens;
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    for (const auto& token : event.delta().tokens()) tokens.push_back(token.token_id());
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_THAT(tokens, ::testing::ElementsAre(12, 13));
}

TEST_F(GrpcFrontendTest, AnEchoedPromptComesWithLogprobsAndBytes) {
  const std::string prompt = "Grüße, 世界";
  v1::CompleteRequest request;
  request.set_model("demo");
  request.set_prompt(prompt);
  request.mutable_options()->set_echo(true);
  request.mutable_options()->set_prompt_logprobs(1);
  request.mutable_options()->mutable_stopping()->set_max_tokens(1);
  grpc::ClientContext context;
  const auto reader = stub_->Complete(&context, request);
  std::string text, bytes;
  uint32_t num_tokens = 0;
  bool has_delta = false;
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
    for (const auto& token : event.delta().tokens()) {
      has_delta = true;
      EXPECT_FALSE(token.token_bytes().empty());
    }
    if (!event.has_prompt_tokens()) continue;
    EXPECT_FALSE(has_delta) << "a part of the prompt behind the output";
    EXPECT_EQ(event.prompt_tokens().begin(), num_tokens);
    text += event.prompt_tokens().text();
    for (const v1::GeneratedToken& token : event.prompt_tokens().tokens()) {
      EXPECT_EQ(token.has_logprob(), num_tokens++ > 0);
      bytes += token.token_bytes();
      for (const auto& top : token.top_logprobs()) EXPECT_FALSE(top.token_bytes().empty());
    }
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(has_delta);
  EXPECT_EQ(text, prompt);
  EXPECT_EQ(bytes, prompt);
}

TEST_F(GrpcFrontendTest, ErrorsCarryFieldAndCode) {
  v1::ChatRequest request = Chat("x");
  request.mutable_options()->mutable_sampling()->set_temperature(-1);
  const Answer bad = Ask(request);
  EXPECT_EQ(bad.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(bad.detail.field(), "temperature");
  EXPECT_FALSE(bad.detail.has_retry_after_seconds());

  v1::ChatRequest unknown = Chat("x");
  unknown.set_model("gpt-17");
  const Answer missing = Ask(unknown);
  EXPECT_EQ(missing.status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(missing.detail.field(), "model");

  v1::ChatRequest half = Chat("x");
  half.mutable_options()->mutable_stopping()->set_max_tokens(0xffffffff);
  EXPECT_EQ(Ask(half).detail.field(), "max_tokens");
}

TEST_F(GrpcFrontendTest, APartOfAChatIsNamed) {
  v1::ChatRequest tools = Chat("x");
  tools.add_tools()->set_function_json("{}");
  tools.add_tools()->set_function_json("{]");
  const Answer bad_tool = Ask(tools);
  EXPECT_EQ(bad_tool.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(bad_tool.detail.field(), "tools[1]");

  v1::ChatRequest calls = Chat("x");
  v1::ChatMessage& message = *calls.add_messages();
  message.set_role("assistant");
  message.add_tool_calls()->mutable_function()->set_arguments_json("nothing");
  EXPECT_EQ(Ask(calls).detail.field(), "messages[1].tool_calls[0]");

  message.set_role("king");
  EXPECT_EQ(Ask(calls).detail.field(), "messages[1].role");
  EXPECT_EQ(Ask(v1::ChatRequest()).detail.field(), "model");
}

TEST_F(GrpcFrontendTest, ACompletionWithoutAPromptIsToldSo) {
  v1::CompleteRequest request;
  request.set_model("demo");
  grpc::ClientContext context;
  const auto reader = stub_->Complete(&context, request);
  v1::GenerateEvent event;
  EXPECT_FALSE(reader->Read(&event));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "neither prompt nor prompt_ids is given, one is needed");
  EXPECT_EQ(DetailOf(context).field(), "prompt");
}

TEST_F(GrpcFrontendTest, BytesThatAreNoMessageAreInvalidInEveryMethod) {
  for (const char* method :
       {"Chat", "Complete", "Tokenize", "Detokenize", "ListModels", "GetModel"}) {
    std::string response;
    const grpc::Status status = CallRaw(absl::StrCat("/longhaul.v1.Inference/", method),
                                        std::string(100, '\xff'), &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
    EXPECT_THAT(status.error_message(), HasSubstr("malformed at byte 0")) << method;
  }
  // The connection is as good as before.
  EXPECT_TRUE(Ask(Chat("x")).status.ok());
}

TEST_F(GrpcFrontendTest, TextThatIsNoUtf8IsNamed) {
  v1::ChatRequest request = Chat("first");
  v1::ChatMessage& message = *request.add_messages();
  message.set_role("user");
  message.set_content("a sentence that X ends");
  std::string bytes = request.SerializeAsString();
  bytes[bytes.find('X')] = '\xff';
  std::string response;
  v1::ErrorDetail detail;
  const grpc::Status status = CallRaw("/longhaul.v1.Inference/Chat", bytes, &response, &detail);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "messages[1].content is not valid UTF-8 at byte 16");
  EXPECT_EQ(detail.field(), "messages[1].content");
}

TEST_F(GrpcFrontendTest, AFiveMegabytePromptIsAccepted) {
  worker_->SetBehavior(Saying("ok"));
  std::string text;
  while (text.size() < 3'500'000) text += "The grass is green. The sky is blue. ";
  const Answer answer = Ask(Chat(text), absl::Seconds(40));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text, "ok");
}

TEST_F(GrpcFrontendTest, AClientThatCancelsFreesTheWorker) {
  FakeBehavior hanging;
  hanging.hang_after_tokens = 1;
  worker_->SetBehavior(hanging);
  grpc::ClientContext context;
  const auto reader = stub_->Chat(&context, Chat("x"));
  v1::GenerateEvent event;
  while (reader->Read(&event) && !event.has_delta()) {
  }
  context.TryCancel();
  EXPECT_TRUE(worker_->WaitFor([](const Executions& e) { return e.at(0).cancelled; }));
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GrpcFrontendTest, TheDeadlineOfTheCallIsTheRequests) {
  FakeBehavior hanging;
  hanging.hang_after_tokens = 1;
  worker_->SetBehavior(hanging);
  const Answer answer = Ask(Chat("x"), absl::Milliseconds(300));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(worker_->WaitFor([](const Executions& e) { return e.at(0).cancelled; }));
  // gRPC's clients round it up.
  EXPECT_LE(worker_->executions().at(0).deadline_seconds.value_or(99), 0.32);
}

TEST_F(GrpcFrontendTest, AReaderThatAcceptsNothingIsCancelled) {
  Listen({.slow_reader = absl::Milliseconds(300)});
  FakeBehavior flood;
  flood.script.assign(100'000, 20);
  flood.tokens_per_event = 100;
  flood.hang_after_tokens = 100'000;
  worker_->SetBehavior(flood);
  v1::ChatRequest request = Chat("x");
  request.mutable_options()->mutable_stopping()->set_max_tokens(100'000);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(30)));
  const auto reader = stub_->Chat(&context, request);
  v1::GenerateEvent event;
  ASSERT_TRUE(reader->Read(&event));
  ASSERT_TRUE(worker_->WaitFor([](const Executions& e) { return !e.empty() && e[0].cancelled; }));
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GrpcFrontendTest, ASlowReaderGetsEverythingAndHoldsNobodyUp) {
  FakeBehavior flood;
  flood.script.assign(20'000, 20);
  flood.tokens_per_event = 100;
  worker_->SetBehavior(flood);
  v1::ChatRequest request = Chat("x");
  request.mutable_options()->mutable_stopping()->set_max_tokens(20'000);
  grpc::ClientContext context;
  const auto reader = stub_->Chat(&context, request);
  // The worker is done although nothing was read.
  EXPECT_TRUE(worker_->WaitFor([](const Executions& e) { return !e.empty() && e[0].ended; }));
  EXPECT_FALSE(worker_->executions().at(0).cancelled);
  int num_tokens = 0;
  v1::GenerateEvent event;
  while (reader->Read(&event)) num_tokens += event.delta().tokens_size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(num_tokens, 20'000);
}

TEST_F(GrpcFrontendTest, TokenizeAndDetokenizeAreInverse) {
  v1::TokenizeRequest request;
  request.set_model("demo");
  request.set_text("Grüße <|im_end|>");
  v1::TokenizeResponse plain;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->Tokenize(&context, request, &plain).ok());
  }
  request.set_parse_special(true);
  v1::TokenizeResponse parsed;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->Tokenize(&context, request, &parsed).ok());
  }
  EXPECT_GT(plain.tokens().ids_size(), parsed.tokens().ids_size());
  v1::DetokenizeRequest back;
  back.set_model("demo");
  *back.mutable_tokens() = parsed.tokens();
  v1::DetokenizeResponse text;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Detokenize(&context, back, &text).ok());
  EXPECT_EQ(text.text(), "Grüße <|im_end|>");
}

TEST_F(GrpcFrontendTest, TokenizesMessagesAsChatReadsThem) {
  v1::TokenizeRequest request;
  request.set_model("demo");
  v1::ChatMessage& message = *request.add_messages();
  message.set_role("user");
  message.set_content("hi");
  v1::TokenizeResponse ids;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->Tokenize(&context, request, &ids).ok());
  }
  v1::DetokenizeRequest back;
  back.set_model("demo");
  *back.mutable_tokens() = ids.tokens();
  v1::DetokenizeResponse text;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->Detokenize(&context, back, &text).ok());
  }
  EXPECT_THAT(text.text(), HasSubstr("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"));

  request.set_text("hi");
  grpc::ClientContext context;
  EXPECT_EQ(stub_->Tokenize(&context, request, &ids).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(GrpcFrontendTest, DetokenizeNamesAnIdOutsideTheVocabulary) {
  for (const uint32_t id : {2'000'000u, 4'294'967'295u}) {
    v1::DetokenizeRequest request;
    request.set_model("demo");
    request.mutable_tokens()->add_ids(id);
    v1::DetokenizeResponse text;
    grpc::ClientContext context;
    const grpc::Status status = stub_->Detokenize(&context, request, &text);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr(std::to_string(id)));
    EXPECT_EQ(DetailOf(context).field(), "tokens");
  }
}

TEST_F(GrpcFrontendTest, ListsItsModel) {
  v1::ListModelsResponse list;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->ListModels(&context, {}, &list).ok());
  }
  ASSERT_EQ(list.models_size(), 1);
  EXPECT_EQ(list.models(0).id(), "demo");
  EXPECT_EQ(list.models(0).healthy_groups(), 1u);
  v1::GetModelRequest request;
  request.set_model("demo");
  v1::Model model;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->GetModel(&context, request, &model).ok());
  }
  EXPECT_EQ(model.max_model_len(), 1'048'576u);
  for (const std::string& name : {std::string("gpt-17"), std::string(1'000'000, 'm')}) {
    request.set_model(name);
    grpc::ClientContext context;
    const grpc::Status status = stub_->GetModel(&context, request, &model);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
    EXPECT_THAT(status.error_message(), HasSubstr("this router serves 'demo'"));
    EXPECT_LT(status.error_message().size(), 400u);
    EXPECT_EQ(DetailOf(context).field(), "model");
  }
}

TEST_F(GrpcFrontendTest, ReflectionTellsTheService) {
  // ServerReflectionRequest{list_services: ""}; the stream ends with the client's half-close.
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
  grpc::CompletionQueue queue;
  const auto step = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  call->StartCall(nullptr);
  ASSERT_TRUE(step());
  const grpc::Slice slice(std::string("\x3a\x00", 2));
  call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  ASSERT_TRUE(step());
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  ASSERT_TRUE(step());
  grpc::Slice whole;
  ASSERT_TRUE(answer.DumpToSingleSlice(&whole).ok());
  EXPECT_THAT(std::string(whole.begin(), whole.end()), HasSubstr("longhaul.v1.Inference"));
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  step();
}

TEST_F(GrpcFrontendTest, ATakenPortIsNamed) {
  const auto second = GrpcFrontend::Start({.port = frontend_->port()}, router_->intake(), clock_);
  EXPECT_THAT(second, longhaul::testing::StatusIs(
                          absl::StatusCode::kUnavailable,
                          HasSubstr(absl::StrCat("127.0.0.1:", frontend_->port()))));
}

TEST_F(GrpcFrontendTest, HealthFollowsReadinessAndShutdown) {
  const std::string service = "longhaul.v1.Inference";
  const std::string request =
      absl::StrCat("\x0a", std::string(1, static_cast<char>(service.size())),
                   service);  // HealthCheckRequest{service}
  const auto health = [&](const std::string& bytes) {
    std::string response;
    const grpc::Status status = CallRaw("/grpc.health.v1.Health/Check", bytes, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.size() == 2 ? static_cast<int>(response[1]) : 0;  // field 1, the enum
  };
  constexpr int kServing = 1;
  constexpr int kNotServing = 2;
  EXPECT_EQ(health(request), kNotServing);
  frontend_->SetServing(true);
  EXPECT_EQ(health(request), kServing);
  EXPECT_EQ(health(""), kServing);
  frontend_->BeginShutdown();
  EXPECT_EQ(health(request), kNotServing);
  EXPECT_EQ(health(""), kNotServing);
}

}  // namespace
}  // namespace longhaul::router::rpc
