#include "tests/testing/leader_fixture.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace longhaul::testing {

ExecuteClient::ExecuteClient(v1::Worker::Stub& stub) {
  // No test waits for ever.
  context_.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(50)));
  stream_ = stub.Execute(&context_);
}

ExecuteClient::~ExecuteClient() {
  if (finished_) return;
  context_.TryCancel();
  stream_->Finish();
}

void ExecuteClient::Send(const v1::ExecuteHeader& header) {
  v1::ExecuteRequest request;
  *request.mutable_header() = header;
  stream_->Write(request);
}

void ExecuteClient::SendPrompt(const std::vector<TokenId>& prompt) {
  constexpr size_t kChunk = 50'000;
  for (size_t begin = 0; begin < prompt.size(); begin += kChunk) {
    v1::ExecuteRequest request;
    const size_t end = std::min(begin + kChunk, prompt.size());
    for (size_t i = begin; i < end; ++i) request.mutable_prompt()->add_ids(prompt[i]);
    stream_->Write(request);
  }
}

std::optional<v1::ExecuteEvent> ExecuteClient::Next() {
  v1::ExecuteEvent event;
  if (!stream_->Read(&event)) return std::nullopt;
  return event;
}

v1::ExecuteEvent ExecuteClient::NextOf(v1::ExecuteEvent::EventCase kind) {
  while (std::optional<v1::ExecuteEvent> event = Next()) {
    if (event->event_case() == kind) return *event;
  }
  ADD_FAILURE() << "the stream ended before an event of kind " << kind;
  return {};
}

std::vector<v1::ExecuteEvent> ExecuteClient::Rest() {
  std::vector<v1::ExecuteEvent> events;
  while (std::optional<v1::ExecuteEvent> event = Next()) events.push_back(*std::move(event));
  return events;
}

grpc::Status ExecuteClient::Finish() {
  Rest();
  finished_ = true;
  return stream_->Finish();
}

LeaderFixture::LeaderFixture() {
  config_.served_model_name = "fake";
  config_.listen = "unix:" + folder_.path() + "/listen";
  config_.max_num_batched_tokens = 1024;
  config_.max_num_seqs = 8;
  config_.long_prompt_tokens = 20'000;
  config_.warm_up_seconds = 0;  // ranks see the test's own requests alone
  model_ = {.num_layers = 2,
            .vocab_size = 1000,
            .max_position_embeddings = 200'000,
            .end_tokens = {999},
            .digest = rank_options_.model_digest,
            .prefix = {.root = {3, 4}}};
}

LeaderFixture::~LeaderFixture() {
  stub_.reset();
  channel_.reset();
  if (leader_ != nullptr) leader_->Stop();
  if (rank_ != nullptr) {
    EXPECT_THAT(rank_->violations(), ::testing::IsEmpty());
  }
}

absl::Status LeaderFixture::TryStart() {
  launcher_.SetOptions(rank_options_);
  // A path of its own: gRPC may remove the socket of a leader before only after its server is gone.
  config_.control_listen = absl::StrCat("unix:", folder_.path(), "/control", ++num_starts_);
  leader_ = std::make_unique<worker::leader::Leader>(config_, model_, "secret", tuning_, launcher_,
                                                     clock_);
  return leader_->Start({});
}

void LeaderFixture::Start() {
  ASSERT_OK(TryStart());
  rank_ = launcher_.WaitForLaunch(1);
  channel_ = grpc::CreateChannel(leader_->address(), grpc::InsecureChannelCredentials());
  stub_ = v1::Worker::NewStub(channel_);
  ASSERT_TRUE(WaitForLoad([](const worker::leader::Load& load) { return load.ready(); }));
}

v1::ExecuteHeader LeaderFixture::Header(int64_t prompt_tokens, int32_t max_tokens) {
  const RequestId id = RequestId::Random();
  v1::ExecuteHeader header;
  header.mutable_request_id()->set_high(id.high);
  header.mutable_request_id()->set_low(id.low);
  header.set_model("fake");
  header.set_model_digest(model_.digest.ToBytes());
  header.set_prompt_tokens(static_cast<uint32_t>(prompt_tokens));
  v1::Sampling* sampling = header.mutable_sampling();
  sampling->set_temperature(0);
  sampling->set_top_p(1);
  sampling->set_top_k(0);
  sampling->set_min_p(0);
  sampling->set_repetition_penalty(1);
  sampling->set_presence_penalty(0);
  sampling->set_frequency_penalty(0);
  sampling->set_seed(1);
  header.mutable_stopping()->set_max_tokens(max_tokens);
  return header;
}

std::vector<TokenId> LeaderFixture::Prompt(int64_t tokens) {
  std::vector<TokenId> prompt(tokens);
  for (int64_t i = 0; i < tokens; ++i) prompt[i] = static_cast<TokenId>(i % 900);
  return prompt;
}

std::unique_ptr<ExecuteClient> LeaderFixture::Execute(const v1::ExecuteHeader& header) {
  auto client = std::make_unique<ExecuteClient>(*stub_);
  client->Send(header);
  client->SendPrompt(Prompt(header.prompt_tokens()));
  client->CloseSending();
  return client;
}

std::vector<TokenId> LeaderFixture::Tokens(const std::vector<v1::ExecuteEvent>& events) {
  std::vector<TokenId> tokens;
  for (const v1::ExecuteEvent& event : events) {
    for (const v1::GeneratedToken& token : event.tokens().tokens()) {
      tokens.push_back(static_cast<TokenId>(token.token_id()));
    }
  }
  return tokens;
}

}  // namespace longhaul::testing
