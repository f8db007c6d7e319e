// A router's view of a leader, over gRPC, with ranks that speak the real wire.
#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <random>

#include "tests/testing/leader_fixture.h"

namespace longhaul::worker::leader {
namespace {

using ::longhaul::testing::ExecuteClient;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Case = v1::ExecuteEvent::EventCase;

class LeaderServiceTest : public ::longhaul::testing::LeaderFixture {
 protected:
  v1::CancelResponse Cancel(const v1::RequestId& id) {
    grpc::ClientContext context;
    v1::CancelRequest request;
    *request.mutable_request_id() = id;
    v1::CancelResponse response;
    EXPECT_TRUE(stub_->Cancel(&context, request, &response).ok());
    return response;
  }
  // All events from a number on, and the status.
  std::pair<std::vector<v1::ExecuteEvent>, grpc::Status> Attach(const v1::RequestId& id,
                                                                uint64_t from) {
    grpc::ClientContext context;
    v1::AttachRequest request;
    *request.mutable_request_id() = id;
    request.set_from_event(from);
    auto stream = stub_->Attach(&context, request);
    std::vector<v1::ExecuteEvent> events;
    v1::ExecuteEvent event;
    while (stream->Read(&event)) events.push_back(event);
    return {events, stream->Finish()};
  }
  // Each position of Prompt(prompt_tokens) but the first was told once, in order, before any token,
  // as FakeRank says it.
  static void ExpectAllPositions(const std::vector<v1::ExecuteEvent>& events, int64_t prompt_tokens,
                                 int num_top) {
    int64_t position = 1;
    bool has_output = false;
    for (const v1::ExecuteEvent& event : events) {
      has_output = has_output || event.has_tokens();
      if (!event.has_prompt_logprobs()) continue;
      EXPECT_FALSE(has_output);
      EXPECT_EQ(event.prompt_logprobs().begin(), position);
      EXPECT_LE(event.prompt_logprobs().tokens_size(), 1024);
      for (const v1::GeneratedToken& token : event.prompt_logprobs().tokens()) {
        EXPECT_EQ(token.token_id(), position % 900);
        EXPECT_EQ(token.logprob(), static_cast<float>(-position));
        EXPECT_THAT(token.top_logprobs(), SizeIs(num_top));
        ++position;
      }
    }
    EXPECT_EQ(position, prompt_tokens);
  }
  grpc::Status StatusOf(const v1::ExecuteHeader& header) { return Execute(header)->Finish(); }
};

TEST_F(LeaderServiceTest, ExecutesARequest) {
  Start();
  auto client = Execute(2500, 4);
  const std::vector<v1::ExecuteEvent> events = client->Rest();
  EXPECT_TRUE(client->Finish().ok());
  ASSERT_THAT(events, SizeIs(9));
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].number(), i);
  EXPECT_EQ(events[0].event_case(), Case::kAdmitted);
  EXPECT_EQ(events[1].progress().processed_tokens(), 1024u);
  EXPECT_EQ(events[2].progress().processed_tokens(), 2048u);
  EXPECT_EQ(events[3].progress().processed_tokens(), 2500u);
  EXPECT_EQ(events[3].progress().prompt_tokens(), 2500u);
  EXPECT_TRUE(events[3].progress().has_eta_seconds());
  // The prompt ends with 2499 mod 900 = 699.
  EXPECT_THAT(Tokens(events), ElementsAre(700, 701, 702, 703));
  const v1::ExecuteFinished& finished = events.back().finished();
  EXPECT_EQ(finished.reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(finished.prompt_tokens(), 2500u);
  EXPECT_EQ(finished.completion_tokens(), 4u);
  EXPECT_TRUE(AllBlocksFree());
  // Its state is dropped on the ranks as well.
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  while (rank_->num_sequences() > 0 && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(2));
  }
  EXPECT_EQ(rank_->num_sequences(), 0u);
}

TEST_F(LeaderServiceTest, TellsThePromptsLogprobs) {
  Start();
  v1::ExecuteHeader header = Header(2500, 1);
  header.set_prompt_logprobs(3);
  const std::vector<v1::ExecuteEvent> events = Execute(header)->Rest();
  ExpectAllPositions(events, 2500, 3);
  EXPECT_THAT(Tokens(events), ElementsAre(700));
  EXPECT_EQ(events.back().finished().reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(LeaderServiceTest, TellsThePromptsLogprobsWithoutOutput) {
  Start();
  v1::ExecuteHeader header = Header(1025, 0);
  header.set_prompt_logprobs(0);
  const std::vector<v1::ExecuteEvent> events = Execute(header)->Rest();
  ExpectAllPositions(events, 1025, 0);
  EXPECT_EQ(events.back().finished().reason(), v1::FINISH_REASON_LENGTH);
  header = Header(1, 0);
  header.set_prompt_logprobs(0);
  ExpectAllPositions(Execute(header)->Rest(), 1, 0);
  EXPECT_TRUE(AllBlocksFree());
}

TEST_F(LeaderServiceTest, ARequestReplayedOnNewRanksTellsNoPositionTwice) {
  rank_options_.step_time = absl::Milliseconds(50);
  Start();
  v1::ExecuteHeader header = Header(5000, 2);
  header.set_prompt_logprobs(1);
  auto client = Execute(header);
  std::vector<v1::ExecuteEvent> events = {client->NextOf(Case::kPromptLogprobs)};
  rank_->Die();
  for (v1::ExecuteEvent& event : client->Rest()) events.push_back(std::move(event));
  ExpectAllPositions(events, 5000, 1);
  EXPECT_EQ(events.back().finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(launcher_.launches(), 2u);
}

TEST_F(LeaderServiceTest, StopsAtTheEndToken) {
  Start();
  rank_->SampleNext(999);
  const std::vector<v1::ExecuteEvent> events = Execute(10, 50)->Rest();
  EXPECT_THAT(Tokens(events), IsEmpty());
  EXPECT_EQ(events.back().finished().reason(), v1::FINISH_REASON_STOP);
}

TEST_F(LeaderServiceTest, RefusesBadHeaders) {
  Start();
  using Change = std::function<void(v1::ExecuteHeader&)>;
  const struct {
    const char* name;
    Change change;
    grpc::StatusCode code;
    const char* text;
  } cases[] = {
      {"model", [](auto& h) { h.set_model("other"); }, grpc::NOT_FOUND, "other"},
      {"digest", [](auto& h) { h.set_model_digest(std::string(16, 'x')); },
       grpc::FAILED_PRECONDITION, "model_digest"},
      {"no id", [](auto& h) { h.clear_request_id(); }, grpc::INVALID_ARGUMENT, "request_id"},
      {"no prompt", [](auto& h) { h.set_prompt_tokens(0); }, grpc::INVALID_ARGUMENT,
       "prompt_tokens"},
      {"too long", [](auto& h) { h.set_prompt_tokens(200'001); }, grpc::INVALID_ARGUMENT,
       "--max-model-len"},
      {"too long with its output", [](auto& h) { h.mutable_stopping()->set_max_tokens(199'991); },
       grpc::INVALID_ARGUMENT, "--max-model-len"},
      {"no max_tokens", [](auto& h) { h.mutable_stopping()->clear_max_tokens(); },
       grpc::INVALID_ARGUMENT, "max_tokens"},
      {"min over max", [](auto& h) { h.mutable_stopping()->set_min_tokens(11); },
       grpc::INVALID_ARGUMENT, "min_tokens"},
      {"stop token", [](auto& h) { h.mutable_stopping()->add_stop_token_ids(1000); },
       grpc::INVALID_ARGUMENT, "vocabulary 1000"},
      {"no sampling", [](auto& h) { h.clear_sampling(); }, grpc::INVALID_ARGUMENT, "sampling"},
      {"temperature", [](auto& h) { h.mutable_sampling()->set_temperature(-1); },
       grpc::INVALID_ARGUMENT, "temperature"},
      {"bias", [](auto& h) { (*h.mutable_sampling()->mutable_logit_bias())[1000] = 1; },
       grpc::INVALID_ARGUMENT, "logit_bias"},
      {"top_logprobs", [](auto& h) { h.set_top_logprobs(21); }, grpc::INVALID_ARGUMENT,
       "top_logprobs"},
      {"prompt_logprobs", [](auto& h) { h.set_prompt_logprobs(21); }, grpc::INVALID_ARGUMENT,
       "prompt_logprobs"},
      {"a prompt too long for its logprobs",
       [](auto& h) {
         h.set_prompt_logprobs(0);
         h.set_prompt_tokens(32'769);
       },
       grpc::INVALID_ARGUMENT,
       "prompt has 32769 tokens, limit with prompt_logprobs 32768 (--max-prompt-logprobs-tokens)"},
      {"priority", [](auto& h) { h.set_priority(-101); }, grpc::INVALID_ARGUMENT, "priority"},
      {"deadline", [](auto& h) { h.set_deadline_seconds(NAN); }, grpc::INVALID_ARGUMENT,
       "deadline_seconds"},
      {"ttl", [](auto& h) { h.set_detach_ttl_seconds(1e9); }, grpc::INVALID_ARGUMENT,
       "detach_ttl_seconds"},
      {"salt", [](auto& h) { h.set_tenant_salt("short"); }, grpc::INVALID_ARGUMENT, "tenant_salt"},
  };
  for (const auto& c : cases) {
    v1::ExecuteHeader header = Header(10, 10);
    c.change(header);
    const grpc::Status status = StatusOf(header);
    EXPECT_EQ(status.error_code(), c.code) << c.name << ": " << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(c.text)) << c.name;
  }
  EXPECT_TRUE(AllBlocksFree());
}

TEST_F(LeaderServiceTest, RefusesBadPrompts) {
  Start();
  const struct {
    const char* name;
    std::vector<std::vector<TokenId>> chunks;
    const char* text;
  } cases[] = {
      {"short", {Prompt(99)}, "99 of 100"},
      {"long", {Prompt(60), Prompt(41)}, "more than prompt_tokens 100"},
      {"foreign token", {{1000}}, "vocabulary 1000"},
  };
  for (const auto& c : cases) {
    ExecuteClient client(*stub_);
    client.Send(Header(100, 10));
    for (const auto& chunk : c.chunks) client.SendPrompt(chunk);
    client.CloseSending();
    const grpc::Status status = client.Finish();
    EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT) << c.name;
    EXPECT_THAT(status.error_message(), HasSubstr(c.text)) << c.name;
  }
  ExecuteClient no_header(*stub_);
  no_header.SendPrompt(Prompt(1));
  EXPECT_THAT(no_header.Finish().error_message(), HasSubstr("must be a header"));
  ExecuteClient two_headers(*stub_);
  two_headers.Send(Header(100, 10));
  two_headers.Send(Header(100, 10));
  EXPECT_THAT(two_headers.Finish().error_message(), HasSubstr("second header"));
}

TEST_F(LeaderServiceTest, APromptChunkHasALimit) {
  Start();
  auto chunk_of = [this](int ids) {
    v1::ExecuteRequest request;
    for (int i = 0; i < ids; ++i) request.mutable_prompt()->add_ids(500);  // two bytes each
    grpc::ClientContext context;
    auto stream = stub_->Execute(&context);
    v1::ExecuteRequest header;
    *header.mutable_header() = Header(ids, 0);
    stream->Write(header);
    stream->Write(request);
    stream->WritesDone();
    v1::ExecuteEvent event;
    while (stream->Read(&event)) {
    }
    return stream->Finish();
  };
  EXPECT_TRUE(chunk_of(131'000).ok());
  EXPECT_THAT(chunk_of(131'100).error_message(), HasSubstr("limit 262144"));
}

TEST_F(LeaderServiceTest, ClosingTheStreamCancels) {
  rank_options_.step_time = absl::Milliseconds(20);
  Start();
  auto client = Execute(100, 10'000);
  client->NextOf(Case::kTokens);
  EXPECT_EQ(leader_->board().Get().running_requests, 1);
  client->Cancel();
  EXPECT_TRUE(AllBlocksFree());
}

TEST_F(LeaderServiceTest, CancelEndsARequestAndIsIdempotent) {
  rank_options_.step_time = absl::Milliseconds(20);
  Start();
  const v1::ExecuteHeader header = Header(100, 10'000);
  auto client = Execute(header);
  client->NextOf(Case::kTokens);
  EXPECT_TRUE(Cancel(header.request_id()).was_running());
  EXPECT_EQ(client->NextOf(Case::kFinished).finished().reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_TRUE(client->Finish().ok());
  EXPECT_FALSE(Cancel(header.request_id()).was_running());
  EXPECT_TRUE(AllBlocksFree());
}

TEST_F(LeaderServiceTest, ADeadlineEndsARequest) {
  rank_options_.step_time = absl::Milliseconds(20);
  Start();
  v1::ExecuteHeader header = Header(100, 10'000);
  header.set_deadline_seconds(0.2);
  const v1::ExecuteFinished finished = Execute(header)->NextOf(Case::kFinished).finished();
  EXPECT_EQ(finished.reason(), v1::FINISH_REASON_ERROR);
  EXPECT_EQ(finished.error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_TRUE(AllBlocksFree());
}

TEST_F(LeaderServiceTest, ADetachedRequestIsPickedUpAgain) {
  rank_options_.step_time = absl::Milliseconds(10);
  Start();
  v1::ExecuteHeader header = Header(100, 20);
  header.set_detach_ttl_seconds(30);
  {
    auto client = Execute(header);
    client->NextOf(Case::kTokens);
  }  // gone
  const auto [events, status] = Attach(header.request_id(), 3);
  EXPECT_TRUE(status.ok());
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.front().number(), 3u);
  EXPECT_EQ(events.back().finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(events.back().finished().completion_tokens(), 20u);
  const auto [all, again] = Attach(header.request_id(), 0);
  EXPECT_TRUE(again.ok());
  EXPECT_THAT(Tokens(all), SizeIs(20)) << "kept for its ttl";
}

TEST_F(LeaderServiceTest, AfterItsTtlADetachedRequestIsGone) {
  rank_options_.step_time = absl::Milliseconds(10);
  Start();
  v1::ExecuteHeader header = Header(100, 10'000);
  header.set_detach_ttl_seconds(0.2);
  Execute(header)->NextOf(Case::kTokens);
  EXPECT_TRUE(AllBlocksFree());
  EXPECT_EQ(Attach(header.request_id(), 0).second.error_code(), grpc::NOT_FOUND);
}

TEST_F(LeaderServiceTest, AttachToNothingIsNotFound) {
  Start();
  EXPECT_EQ(Attach(Header(1, 1).request_id(), 0).second.error_code(), grpc::NOT_FOUND);
}

TEST_F(LeaderServiceTest, DrainRejectsNewAndLetsOldFinish) {
  rank_options_.step_time = absl::Milliseconds(10);
  Start();
  auto old = Execute(100, 30);
  old->NextOf(Case::kTokens);
  grpc::ClientContext context;
  v1::DrainResponse response;
  ASSERT_TRUE(stub_->Drain(&context, {}, &response).ok());
  EXPECT_EQ(response.running_requests(), 1u);
  ASSERT_TRUE(WaitForLoad([](const Load& load) { return load.draining; }));
  EXPECT_THAT(Execute(10, 10)->NextOf(Case::kRejected).rejected().reason(), HasSubstr("drain"));
  EXPECT_EQ(old->NextOf(Case::kFinished).finished().reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(LeaderServiceTest, ASecondLongJobWaitsAThirdIsRejected) {
  rank_options_.step_time = absl::Milliseconds(20);
  rank_options_.kv_capacity_blocks = 100;  // 25,600 tokens
  Start();
  auto first = Execute(20'000, 10);
  first->NextOf(Case::kAdmitted);
  auto second = Execute(20'000, 10);
  second->NextOf(Case::kAdmitted);
  auto third = Execute(20'000, 10);
  EXPECT_GT(third->NextOf(Case::kRejected).rejected().predicted_wait_seconds(), 0);
  EXPECT_TRUE(third->Finish().ok());
}

TEST_F(LeaderServiceTest, ALeaderThatStopsTellsItsRequests) {
  rank_options_.step_time = absl::Milliseconds(20);
  Start();
  auto client = Execute(100, 10'000);
  client->NextOf(Case::kTokens);
  leader_->Stop();
  const v1::ExecuteFinished finished = client->NextOf(Case::kFinished).finished();
  EXPECT_EQ(finished.error_code(), grpc::UNAVAILABLE);
  EXPECT_TRUE(rank_->WaitForEnd(absl::Now() + absl::Seconds(5)));
}

TEST_F(LeaderServiceTest, WatchTellsWhoAndHowBusy) {
  rank_options_.step_time = absl::Milliseconds(20);
  Start();
  grpc::ClientContext context;
  v1::WatchRequest request;
  request.set_protocol_version(kProtocolVersion);
  auto stream = stub_->Watch(&context, request);
  v1::WatchEvent event;
  ASSERT_TRUE(stream->Read(&event));
  const v1::Hello hello = event.hello();
  EXPECT_EQ(hello.model(), "fake");
  EXPECT_EQ(hello.model_digest(), model_.digest.ToBytes());
  EXPECT_EQ(hello.kv_blocks(), 1000u);
  EXPECT_EQ(hello.max_model_len(), 200'000u);
  EXPECT_EQ(hello.kv_block_tokens(), 256u);
  EXPECT_NE(hello.incarnation(), 0u);
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_TRUE(event.load().ready());
  EXPECT_EQ(event.load().sequence(), 1u);

  auto client = Execute(100, 10'000);
  client->NextOf(Case::kAdmitted);
  const absl::Time admitted = absl::Now();
  do {
    ASSERT_TRUE(stream->Read(&event));
  } while (event.load().running_requests() != 1);
  EXPECT_LT(absl::Now() - admitted, absl::Milliseconds(500));  // 50 on a machine of its own

  // Without a change, one a second.
  client->Cancel();
  do {
    ASSERT_TRUE(stream->Read(&event));
  } while (event.load().free_kv_blocks() != 1000);
  const uint64_t last = event.load().sequence();
  for (int loads = 0; loads < 2; loads += event.has_load() ? 1 : 0) {
    ASSERT_TRUE(stream->Read(&event));  // deltas of the cached prefixes come in between
  }
  EXPECT_EQ(event.load().sequence(), last + 2);

  // The stream ends with the incarnation; the next one says which came after.
  rank_->Die();
  while (stream->Read(&event)) {
  }
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("is over"));
  grpc::ClientContext again_context;
  auto again = stub_->Watch(&again_context, request);
  ASSERT_TRUE(again->Read(&event));
  EXPECT_EQ(event.hello().incarnation(), hello.incarnation() + 1);
  again_context.TryCancel();
  again->Finish();
}

// One message to a method of a service whose protos are not ours, one message back.
std::string RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                    const std::string& request) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const grpc::Slice slice(request);
  auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&slice, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, &queue);
  void* tag = nullptr;
  bool ok = false;
  EXPECT_TRUE(queue.Next(&tag, &ok));
  EXPECT_TRUE(status.ok()) << method << ": " << status.error_message();
  grpc::Slice answer;
  if (!response.DumpToSingleSlice(&answer).ok()) return "";
  return {reinterpret_cast<const char*>(answer.begin()), answer.size()};
}

TEST_F(LeaderServiceTest, AnswersHealthChecksAndReflection) {
  Start();
  const std::string serving = "\x08\x01";  // HealthCheckResponse{status: SERVING}
  const std::string not_serving = "\x08\x02";
  const std::string check = "/grpc.health.v1.Health/Check";
  const std::string worker = "\x0a\x12longhaul.v1.Worker";  // HealthCheckRequest{service}
  EXPECT_EQ(RawCall(channel_, check, ""), serving);
  EXPECT_EQ(RawCall(channel_, check, worker), serving);
  // ServerReflectionRequest{list_services: ""}
  EXPECT_THAT(RawCall(channel_, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                      std::string("\x3a\x00", 2)),
              HasSubstr("longhaul.v1.Worker"));
  grpc::ClientContext context;
  v1::DrainResponse response;
  ASSERT_TRUE(stub_->Drain(&context, {}, &response).ok());
  ASSERT_TRUE(WaitForLoad([](const Load& load) { return load.draining; }));
  EXPECT_EQ(RawCall(channel_, check, worker), not_serving);
}

TEST_F(LeaderServiceTest, WatchRefusesAnotherProtocol) {
  Start();
  grpc::ClientContext context;
  auto stream = stub_->Watch(&context, {});
  EXPECT_EQ(stream->Finish().error_code(), grpc::FAILED_PRECONDITION);
}

TEST_F(LeaderServiceTest, RandomRequestsWithRandomCancelsLeaveEveryBlockFree) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed=" << seed);
  std::mt19937 random(seed);
  rank_options_.kv_capacity_blocks = 120;
  config_.max_num_seqs = 5;
  Start();
  std::vector<std::pair<int, std::unique_ptr<ExecuteClient>>> clients;
  std::vector<int64_t> prompts;
  for (int i = 0; i < 50; ++i) {
    prompts.push_back(1 + random() % 5000);
    const v1::ExecuteHeader header = Header(prompts.back(), static_cast<int32_t>(random() % 40));
    clients.emplace_back(static_cast<int>(header.stopping().max_tokens()), Execute(header));
    if (random() % 3 == 0) clients[random() % clients.size()].second->Cancel();
    if (random() % 6 == 0) Cancel(header.request_id());
  }
  int whole = 0;
  for (size_t i = 0; i < clients.size(); ++i) {
    const std::vector<v1::ExecuteEvent> events = clients[i].second->Rest();
    if (events.empty() || events.back().finished().reason() != v1::FINISH_REASON_LENGTH) continue;
    ++whole;
    const std::vector<TokenId> tokens = Tokens(events);
    ASSERT_EQ(static_cast<int>(tokens.size()), clients[i].first);
    for (size_t t = 0; t < tokens.size(); ++t) {
      ASSERT_EQ(tokens[t], (prompts[i] - 1) % 900 + 1 + static_cast<int64_t>(t));
    }
  }
  EXPECT_GT(whole, 5);
  EXPECT_TRUE(AllBlocksFree());
  // Plans came in order and without gaps: the rank checks each (LeaderFixture, violations).
  EXPECT_FALSE(rank_->plans().empty());
}

}  // namespace
}  // namespace longhaul::worker::leader
