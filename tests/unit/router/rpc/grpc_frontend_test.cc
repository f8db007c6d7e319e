// The gRPC side of a router, from a client's stub to a faked leader.
#include "router/rpc/grpc_frontend.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <future>

#include "absl/strings/str_cat.h"
#include "longhaul/v1/inference.grpc.pb.h"
#include "router/rpc/grpc_codec.h"
#include "tests/testing/fake_worker.h"
#include "tests/testing/router_stack.h"
#include "tests/testing/status_matchers.h"

namespace longhaul::router::rpc {
namespace {

using longhaul::testing::FakeBehavior;
using longhaul::testing::FakeExecution;
using longhaul::testing::FakeWorker;
using longhaul::testing::RouterStack;
using ::testing::HasSubstr;

using Executions = std::vector<FakeExecution>;

class GrpcFrontendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(worker_, FakeWorker::Start({}));
    router_ = std::make_unique<RouterStack>(RouterStack::Options{.workers = {worker_->address()}});
    ASSERT_TRUE(router_->WaitForGroups(1));
    Listen({.port = 0});
  }

  void Listen(GrpcFrontendOptions options) {
    ASSERT_OK_AND_ASSIGN(frontend_, GrpcFrontend::Start(options, router_->intake(), clock_));
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    // A window that does not grow, so that a client that does not read is noticed soon.
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 64 << 10);
    channel_ = grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", frontend_->port()),
                                         grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Inference::NewStub(channel_);
  }

  FakeBehavior Saying(const std::string& text) const {
    FakeBehavior behavior;
    behavior.script = *router_->model().tokenizer->Encode(text, text::SpecialTokens::kAsText);
    return behavior;
  }

  static v1::ChatRequest Chat(const std::string& content) {
    v1::ChatRequest request;
    request.set_model("demo");
    v1::ChatMessage& message = *request.add_messages();
    message.set_role("user");
    message.set_content(content);
    return request;
  }

  struct Answer {
    std::vector<v1::GenerateEvent> events;
    std::string text;
    grpc::Status status;
    v1::ErrorDetail detail;
  };
  Answer Ask(const v1::ChatRequest& request, absl::Duration timeout = absl::Seconds(10)) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    const auto reader = stub_->Chat(&context, request);
    Answer answer;
    v1::GenerateEvent event;
    while (reader->Read(&event)) {
      answer.text += event.delta().text();
      answer.events.push_back(event);
    }
    answer.status = reader->Finish();
    answer.detail = DetailOf(context);
    return answer;
  }
  // Of a call that is over.
  static v1::ErrorDetail DetailOf(const grpc::ClientContext& context) {
    v1::ErrorDetail detail;
    const auto& trailers = context.GetServerTrailingMetadata();
    const auto trailer = trailers.find(kErrorDetailTrailer);
    if (trailer != trailers.end()) {
      EXPECT_TRUE(
          detail.ParseFromArray(trailer->second.data(), static_cast<int>(trailer->second.size())));
    }
    return detail;
  }

  SystemClock clock_;
  std::unique_ptr<FakeWorker> worker_;
  std::unique_ptr<RouterStack> router_;
  std::unique_ptr<GrpcFrontend> frontend_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

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
  EXPECT_EQ(Ask(unknown).status.error_code(), grpc::StatusCode::NOT_FOUND);

  v1::ChatRequest half = Chat("x");
  half.mutable_options()->mutable_stopping()->set_max_tokens(0xffffffff);
  EXPECT_EQ(Ask(half).detail.field(), "max_tokens");
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
  EXPECT_LE(worker_->executions().at(0).deadline_seconds.value_or(99), 0.3);
}

TEST_F(GrpcFrontendTest, AReaderThatAcceptsNothingIsCancelled) {
  frontend_.reset();
  Listen({.port = 0, .slow_reader = absl::Milliseconds(300)});
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
  request.set_model("gpt-17");
  grpc::ClientContext context;
  EXPECT_EQ(stub_->GetModel(&context, request, &model).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(GrpcFrontendTest, ATakenPortIsNamed) {
  const auto second = GrpcFrontend::Start({.port = frontend_->port()}, router_->intake(), clock_);
  EXPECT_THAT(second, longhaul::testing::StatusIs(
                          absl::StatusCode::kUnavailable,
                          HasSubstr(absl::StrCat("127.0.0.1:", frontend_->port()))));
}

// One RPC with raw bytes: health and reflection have no generated code here.
grpc::Status CallRaw(const std::shared_ptr<grpc::Channel>& channel, const char* method,
                     const std::string& request, std::string* response) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  const grpc::Slice slice(request);
  const grpc::ByteBuffer in(&slice, 1);
  grpc::ByteBuffer out;
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, method, {}, &in, &out,
                 [&done](grpc::Status status) { done.set_value(std::move(status)); });
  const grpc::Status status = done.get_future().get();
  std::vector<grpc::Slice> slices;
  if (status.ok()) out.Dump(&slices);
  for (const grpc::Slice& part : slices) {
    response->append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  return status;
}

TEST_F(GrpcFrontendTest, HealthFollowsReadinessAndShutdown) {
  const std::string service = "longhaul.v1.Inference";
  const std::string request =
      absl::StrCat("\x0a", std::string(1, static_cast<char>(service.size())),
                   service);  // HealthCheckRequest{service}
  const auto health = [&](const std::string& bytes) {
    std::string response;
    const grpc::Status status = CallRaw(channel_, "/grpc.health.v1.Health/Check", bytes, &response);
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
