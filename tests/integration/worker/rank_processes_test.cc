// A leader and its ranks as processes: the same tokens however many ranks there are, and any rank
// killed or stopped at any time.
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/subprocess.h"
#include "tests/testing/leader_fixture.h"
#include "tests/testing/paths.h"
#include "tests/testing/tiny_model.h"

namespace longhaul::worker::leader {
namespace {

using ::longhaul::testing::ExecuteClient;
using ::longhaul::testing::ProgramPath;
using ::longhaul::testing::TempDir;
using ::longhaul::testing::TinyModel;
using ::testing::SizeIs;
using Case = v1::ExecuteEvent::EventCase;

constexpr int32_t kVocabSize = 300;
constexpr absl::Duration kNoticed = absl::Seconds(5);
constexpr absl::Duration kReadyAgain = absl::Seconds(30);

std::string FileText(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// `longhaul-worker leader` of a tiny model, with its ranks.
class LeaderProcess {
 public:
  LeaderProcess(int32_t tensor_parallel_size, int32_t pipeline_parallel_size) {
    TinyModel{.num_layers = 3, .num_kv_heads = 2, .vocab_size = kVocabSize}.Write(folder_.path());
    const std::string listen = absl::StrCat("unix:", folder_.path(), "/listen");
    auto started = Subprocess::Start({.argv = {ProgramPath("longhaul-worker"),
                                               "leader",
                                               "--model",
                                               folder_.path(),
                                               "--served-model-name",
                                               "tiny",
                                               "--listen",
                                               listen,
                                               "--control-listen",
                                               absl::StrCat("unix:", folder_.path(), "/control"),
                                               "--tensor-parallel-size",
                                               absl::StrCat(tensor_parallel_size),
                                               "--pipeline-parallel-size",
                                               absl::StrCat(pipeline_parallel_size),
                                               "--threads",
                                               "1",
                                               "--kv-cache-gib",
                                               "0.05",
                                               "--max-num-seqs",
                                               "8",
                                               "--max-num-batched-tokens",
                                               "264",
                                               "--metrics-port",
                                               "-1",
                                               "--rank-metrics-port",
                                               "-1"},
                                      .capture_stdout = true});
    CHECK(started.ok()) << started.status();
    process_ = *std::move(started);
    const auto line = process_->ReadLine(absl::Now() + absl::Seconds(60));
    CHECK(line.ok() && line->rfind("ready ", 0) == 0) << line.status();
    stub_ = v1::Worker::NewStub(grpc::CreateChannel(listen, grpc::InsecureChannelCredentials()));
    v1::WatchRequest request;
    grpc::ClientContext context;
    request.set_protocol_version(kProtocolVersion);
    const auto watch = stub_->Watch(&context, request);
    v1::WatchEvent event;
    CHECK(watch->Read(&event) && event.has_hello());
    digest_ = event.hello().model_digest();
    context.TryCancel();
    watch->Finish().IgnoreError();
  }

  // Process ids of the ranks that run, by rank.
  std::map<int32_t, pid_t> Ranks() const {
    std::map<int32_t, pid_t> ranks;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string stat = FileText(entry.path() / "stat");
      const size_t state = stat.rfind(") ");  // behind the program's name
      if (state == stat.npos || stat[state + 2] == 'Z') continue;
      if (std::atoi(stat.c_str() + state + 4) != process_->pid()) continue;
      const std::string command = FileText(entry.path() / "cmdline");
      const std::vector<std::string> words = absl::StrSplit(command, '\0');
      const auto flag = std::find(words.begin(), words.end(), "--rank");
      if (flag == words.end() || flag + 1 == words.end()) continue;
      ranks[std::atoi((flag + 1)->c_str())] = std::atoi(stat.c_str());
    }
    return ranks;
  }

  std::unique_ptr<ExecuteClient> Execute(const std::vector<TokenId>& prompt, int32_t max_tokens) {
    v1::ExecuteHeader header;
    const RequestId id = RequestId::Random();
    header.mutable_request_id()->set_high(id.high);
    header.mutable_request_id()->set_low(id.low);
    header.set_model("tiny");
    header.set_model_digest(digest_);
    header.set_prompt_tokens(static_cast<uint32_t>(prompt.size()));
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
    header.mutable_stopping()->set_ignore_eos(true);
    auto client = std::make_unique<ExecuteClient>(*stub_);
    client->Send(header);
    client->SendPrompt(prompt);
    client->CloseSending();
    return client;
  }

 private:
  const TempDir folder_;
  std::unique_ptr<Subprocess> process_;
  std::unique_ptr<v1::Worker::Stub> stub_;
  std::string digest_;
};

std::vector<TokenId> TokensOf(const std::vector<v1::ExecuteEvent>& events) {
  std::vector<TokenId> tokens;
  for (const v1::ExecuteEvent& event : events) {
    for (const v1::GeneratedToken& token : event.tokens().tokens()) {
      tokens.push_back(static_cast<TokenId>(token.token_id()));
    }
  }
  if (events.empty() || events.back().finished().reason() != v1::FINISH_REASON_LENGTH) {
    ADD_FAILURE() << (events.empty() ? "no event" : events.back().ShortDebugString());
  }
  return tokens;
}

class RankProcesses : public ::testing::Test {
 protected:
  std::vector<TokenId> RandomPrompt(size_t tokens) {
    std::vector<TokenId> prompt(tokens);
    for (TokenId& token : prompt) token = static_cast<TokenId>(random_() % kVocabSize);
    return prompt;
  }

  const uint32_t seed_ = std::random_device{}();
  const ::testing::ScopedTrace trace_{__FILE__, __LINE__, absl::StrCat("seed=", seed_)};
  std::mt19937 random_{seed_};
};

TEST_F(RankProcesses, GiveTheTokensOfOneRank) {
  std::vector<std::vector<TokenId>> prompts;
  for (const size_t tokens : {1, 255, 257, 600, 1500}) prompts.push_back(RandomPrompt(tokens));
  std::vector<std::vector<TokenId>> expected;
  for (const auto& [shards, stages] : {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}}) {
    LeaderProcess leader(shards, stages);
    EXPECT_THAT(leader.Ranks(), SizeIs(shards * stages));
    std::vector<std::unique_ptr<ExecuteClient>> clients;
    for (const auto& prompt : prompts) clients.push_back(leader.Execute(prompt, 6));
    std::vector<std::vector<TokenId>> tokens;
    for (const auto& client : clients) tokens.push_back(TokensOf(client->Rest()));
    if (expected.empty()) expected = tokens;
    EXPECT_EQ(tokens, expected) << shards << " x " << stages;
  }
}

// A group of four, of which a rank is struck down by a signal.
class StruckRank : public RankProcesses,
                   public ::testing::WithParamInterface<std::pair<int, int32_t>> {
 protected:
  // Strikes; returns when all ranks of that incarnation are gone.
  void Strike() {
    const std::map<int32_t, pid_t> ranks = leader_.Ranks();
    ASSERT_THAT(ranks, SizeIs(4));
    const auto [number, rank] = GetParam();
    const absl::Time begin = absl::Now();
    ASSERT_EQ(kill(ranks.at(rank), number), 0);
    const auto gone = [&] {
      const std::map<int32_t, pid_t> now = leader_.Ranks();
      return std::none_of(now.begin(), now.end(),
                          [&](const auto& each) { return ranks.at(each.first) == each.second; });
    };
    while (!gone() && absl::Now() < begin + 2 * kNoticed) absl::SleepFor(absl::Milliseconds(20));
    EXPECT_LT(absl::Now() - begin, kNoticed);
    EXPECT_TRUE(gone());
  }

  LeaderProcess leader_{2, 2};
};

TEST_P(StruckRank, IsReplacedWithAllOthersWhenIdle) {
  Strike();
  const absl::Time begin = absl::Now();
  EXPECT_THAT(TokensOf(leader_.Execute(RandomPrompt(100), 3)->Rest()), SizeIs(3));
  EXPECT_LT(absl::Now() - begin, kReadyAgain);
}

TEST_P(StruckRank, InMidPrefillCostsNoRequest) {
  const std::vector<TokenId> prompt = RandomPrompt(4000);
  auto client = leader_.Execute(prompt, 3);
  while (client->NextOf(Case::kProgress).progress().processed_tokens() == 0) {
    ASSERT_FALSE(HasFailure());
  }
  Strike();
  const absl::Time begin = absl::Now();
  const std::vector<TokenId> tokens = TokensOf(client->Rest());
  EXPECT_LT(absl::Now() - begin, kReadyAgain);
  EXPECT_EQ(tokens, TokensOf(leader_.Execute(prompt, 3)->Rest()));
}

std::string NameOf(const ::testing::TestParamInfo<std::pair<int, int32_t>>& info) {
  return absl::StrCat(info.param.first == SIGKILL ? "Killed" : "Stopped", info.param.second);
}

INSTANTIATE_TEST_SUITE_P(Killed, StruckRank,
                         ::testing::Values(std::pair{SIGKILL, 0}, std::pair{SIGKILL, 1},
                                           std::pair{SIGKILL, 2}, std::pair{SIGKILL, 3}),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Stopped, StruckRank,
                         ::testing::Values(std::pair{SIGSTOP, 0}, std::pair{SIGSTOP, 1},
                                           std::pair{SIGSTOP, 2}, std::pair{SIGSTOP, 3}),
                         NameOf);

}  // namespace
}  // namespace longhaul::worker::leader
