// Requests through a router without frontends, to leaders that are faked over real gRPC.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/metrics.h"
#include "common/prefix_hash.h"
#include "router/error_detail.h"
#include "tests/testing/fake_worker.h"
#include "tests/testing/recording_sink.h"
#include "tests/testing/router_stack.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace longhaul::router {
namespace {

using longhaul::testing::FakeBehavior;
using longhaul::testing::FakeExecution;
using longhaul::testing::FakeLoad;
using longhaul::testing::FakeWorker;
using longhaul::testing::RecordedResponse;
using longhaul::testing::RecordingSink;
using longhaul::testing::RouterStack;
using longhaul::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

using Executions = std::vector<FakeExecution>;

class DispatchTest : public ::testing::Test {
 protected:
  FakeWorker& AddWorker(FakeWorker::Options options = {}) {
    auto worker = FakeWorker::Start(std::move(options));
    CHECK(worker.ok()) << worker.status();
    workers_.push_back(*std::move(worker));
    return *workers_.back();
  }

  // A router in front of all workers; ready.
  RouterStack& StartRouter(RouterStack::Options options = {}) {
    for (const auto& worker : workers_) options.workers.push_back(worker->address());
    router_ = std::make_unique<RouterStack>(std::move(options));
    CHECK(router_->WaitForGroups(static_cast<int32_t>(workers_.size()))) << "no group came up";
    return *router_;
  }

  std::vector<TokenId> Ids(const std::string& text) const {
    return *router_->model().tokenizer->Encode(text, text::SpecialTokens::kAsText);
  }

  // Makes every worker generate the tokens of `text`.
  FakeBehavior Saying(const std::string& text) const {
    FakeBehavior behavior;
    behavior.script = Ids(text);
    return behavior;
  }
  void AllSay(const std::string& text) {
    for (const auto& worker : workers_) worker->SetBehavior(Saying(text));
  }

  // Returns when the router knows it. The backlog is of short prompts: long ones would be passed.
  void SetBacklog(size_t worker, double seconds) {
    const int32_t requests = seconds > 0 ? 100'000 : 0;
    workers_[worker]->SetLoad(
        {.running_requests = requests, .queued_seconds = seconds, .seconds_per_token = 0.001});
    const std::string address = workers_[worker]->address();
    CHECK(router_->WaitForView([&](const ClusterView& view) {
      return std::any_of(view.groups.begin(), view.groups.end(), [&](const Group& group) {
        return group.address == address && group.load.queued_seconds == seconds;
      });
    })) << "the load did not arrive";
  }

  static GenerateRequest Completion(const std::string& prompt = "What is the pass key?") {
    GenerateRequest request;
    request.input = TextInput{prompt};
    return request;
  }

  size_t NumExecutions() const {
    size_t count = 0;
    for (const auto& worker : workers_) count += worker->executions().size();
    return count;
  }

  std::vector<std::unique_ptr<FakeWorker>> workers_;
  std::unique_ptr<RouterStack> router_;
};

TEST_F(DispatchTest, ARequestGetsQueuedProgressDeltasFinished) {
  AddWorker();
  RouterStack& router = StartRouter();
  AllSay("The pass key is 28884.");
  GenerateRequest request;
  request.input = ChatInput{.messages = {{.role = "user", .content = "What is the pass key?"}}};
  request.sampling.seed = 42;
  request.sampling.temperature = 0.5;
  const RecordedResponse response = router.Submit(std::move(request))->WaitForEnd();
  ASSERT_FALSE(response.error) << *response.error;
  ASSERT_TRUE(response.queued.has_value());
  EXPECT_EQ(response.queued->position, 0);
  EXPECT_THAT(response.progress, SizeIs(2));
  EXPECT_EQ(response.progress.back().processed_tokens, response.queued->prompt_tokens);
  EXPECT_EQ(response.Text(), "The pass key is 28884.");
  ASSERT_THAT(response.finished, SizeIs(1));
  const FinishedEvent& finished = response.finished[0];
  EXPECT_EQ(finished.reason, FinishReason::kStop);
  EXPECT_EQ(finished.usage.prompt_tokens, response.queued->prompt_tokens);
  EXPECT_EQ(finished.usage.completion_tokens,
            static_cast<int32_t>(Ids("The pass key is 28884.").size()));
  EXPECT_GT(finished.time_to_first_token_seconds.value_or(-1), 0);

  const FakeExecution execution = workers_[0]->executions().at(0);
  EXPECT_EQ(execution.seed, 42u);
  EXPECT_EQ(execution.temperature, 0.5f);
  EXPECT_EQ(execution.max_tokens, 8192);
  EXPECT_NEAR(execution.deadline_seconds.value_or(0), 3600, 10);  // the default
  const std::string rendered = router.model().tokenizer->Decode(execution.prompt, false);
  EXPECT_THAT(rendered, HasSubstr("What is the pass key?<|im_end|>"));
  EXPECT_TRUE(rendered.ends_with("<|im_start|>assistant\n")) << rendered;
}

TEST_F(DispatchTest, AMillionTokensReachTheWorkerInSmallChunks) {
  AddWorker();
  RouterStack& router = StartRouter();
  GenerateRequest request;
  std::vector<TokenId> ids(1'000'000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>((i * 7919) % 2000);
  request.input = TokenInput{ids};
  request.max_tokens = 3;
  request.sampling.seed = 0;
  const RecordedResponse response =
      router.Submit(std::move(request))->WaitForEnd(absl::Seconds(30));
  ASSERT_FALSE(response.error) << *response.error;
  EXPECT_THAT(response.Tokens(), ElementsAre(ids[0], ids[1], ids[2]));
  EXPECT_EQ(response.finished.at(0).reason, FinishReason::kLength);
  const FakeExecution execution = workers_[0]->executions().at(0);
  EXPECT_EQ(execution.prompt, ids);
  EXPECT_LE(execution.largest_chunk_bytes, 256 * 1024);
}

TEST_F(DispatchTest, WorksOverAUnixSocket) {
  const longhaul::testing::TempDir dir;
  AddWorker({.address = absl::StrCat("unix:", dir.path(), "/leader.sock")});
  RouterStack& router = StartRouter();
  AllSay("hello");
  EXPECT_EQ(router.Submit(Completion())->WaitForEnd().Text(), "hello");
}

TEST_F(DispatchTest, AStopStringOverTokensEndsTheTextAndTheWork) {
  FakeWorker& worker = AddWorker();
  RouterStack& router = StartRouter();
  FakeBehavior behavior = Saying("The pass key is 28884. Remember it.");
  behavior.hang_after_tokens = static_cast<int32_t>(behavior.script.size());
  worker.SetBehavior(behavior);
  GenerateRequest request = Completion();
  request.stop = {"84. Rem"};
  const RecordedResponse response = router.Submit(std::move(request))->WaitForEnd();
  ASSERT_FALSE(response.error) << *response.error;
  EXPECT_EQ(response.Text(), "The pass key is 288");
  EXPECT_EQ(response.finished.at(0).reason, FinishReason::kStop);
  EXPECT_EQ(response.finished.at(0).stop, "84. Rem");
  EXPECT_TRUE(worker.WaitFor([](const Executions& e) { return e.at(0).cancelled; }));
}

TEST_F(DispatchTest, ChoicesAreExecutionsWithSeedsInARow) {
  AddWorker();
  RouterStack& router = StartRouter();
  GenerateRequest request = Completion("abcdefgh");
  request.num_choices = 3;
  request.sampling.seed = 100;
  request.max_tokens = 4;
  const std::vector<TokenId> prompt =
      *router.model().tokenizer->Encode("abcdefgh", text::SpecialTokens::kParse);
  const RecordedResponse response = router.Submit(std::move(request))->WaitForEnd();
  ASSERT_FALSE(response.error) << *response.error;
  ASSERT_THAT(response.finished, SizeIs(3));
  std::set<uint64_t> seeds;
  std::set<RequestId> ids;
  for (const FakeExecution& execution : workers_[0]->executions()) {
    seeds.insert(execution.seed);
    ids.insert(execution.id);
  }
  EXPECT_THAT(seeds, ElementsAre(100, 101, 102));
  EXPECT_THAT(ids, SizeIs(3));
  for (int32_t choice = 0; choice < 3; ++choice) {
    std::vector<TokenId> expected;
    for (size_t i = 0; i < 4; ++i) {
      expected.push_back(prompt[(100 + static_cast<size_t>(choice) + i) % prompt.size()]);
    }
    EXPECT_EQ(response.Tokens(choice), expected) << "choice " << choice;
  }
}

TEST_F(DispatchTest, ACancelReachesTheWorkerAndNoEventFollows) {
  FakeWorker& worker = AddWorker();
  RouterStack& router = StartRouter();
  FakeBehavior behavior;
  behavior.hang_after_tokens = 1;
  worker.SetBehavior(behavior);
  GenerateRequest request = Completion();
  const RequestId id = request.id;
  const auto sink = router.Submit(std::move(request));
  ASSERT_THAT(sink->WaitFor([](const RecordedResponse& r) { return !r.deltas.empty(); }).deltas,
              SizeIs(1));
  router.intake().Cancel(id);
  router.intake().Cancel(id);  // idempotent
  EXPECT_TRUE(worker.WaitFor([](const Executions& e) { return e.at(0).cancelled; }));
  const RecordedResponse response = sink->WaitForEnd(absl::Milliseconds(100));
  EXPECT_FALSE(response.done);
}

TEST_F(DispatchTest, AWorkerLostBeforeAnyTokenIsReplacedWithTheSameSeed) {
  AddWorker({.incarnation = 1});
  AddWorker({.incarnation = 2});
  RouterStack& router = StartRouter();
  AllSay("answer");
  FakeBehavior failing = Saying("answer");
  failing.fail_after_tokens = 0;  // after two progress events
  workers_[0]->SetBehavior(failing);
  SetBacklog(1, 10);  // so that the first one is chosen
  const RecordedResponse response = router.Submit(Completion())->WaitForEnd();
  ASSERT_FALSE(response.error) << *response.error;
  EXPECT_EQ(response.Text(), "answer");
  const Executions first = workers_[0]->executions();
  const Executions second = workers_[1]->executions();
  ASSERT_THAT(first, SizeIs(1));
  ASSERT_THAT(second, SizeIs(1));
  EXPECT_EQ(first[0].id, second[0].id);
  EXPECT_EQ(first[0].seed, second[0].seed);
}

TEST_F(DispatchTest, AWorkerThatDiesBeforeAnyTokenIsReplaced) {
  AddWorker();
  AddWorker();
  RouterStack& router = StartRouter();
  FakeBehavior hanging;
  hanging.hang_after_tokens = 0;
  for (const auto& worker : workers_) worker->SetBehavior(hanging);
  const auto sink = router.Submit(Completion());
  sink->WaitFor([](const RecordedResponse& r) { return r.progress.size() == 2; });
  const size_t dying = workers_[0]->executions().empty() ? 1 : 0;
  workers_[1 - dying]->SetBehavior(Saying("still here"));
  workers_[dying]->Stop();
  const RecordedResponse response = sink->WaitForEnd();
  ASSERT_FALSE(response.error) << *response.error;
  EXPECT_EQ(response.Text(), "still here");
  EXPECT_EQ(workers_[dying]->executions().at(0).seed, workers_[1 - dying]->executions().at(0).seed);
  EXPECT_TRUE(router.WaitForGroups(1));
}

TEST_F(DispatchTest, AWorkerLostTwiceIsAnError) {
  AddWorker();
  AddWorker();
  RouterStack& router = StartRouter();
  FakeBehavior failing;
  failing.fail_after_tokens = 0;
  failing.fail_in_band = true;
  for (const auto& worker : workers_) worker->SetBehavior(failing);
  const RecordedResponse response = router.Submit(Completion())->WaitForEnd();
  ASSERT_TRUE(response.error.has_value());
  EXPECT_EQ(response.error->code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(NumExecutions(), 2u);
}

TEST_F(DispatchTest, AWorkerLostAfterATokenIsAClearError) {
  AddWorker();
  AddWorker();
  RouterStack& router = StartRouter();
  FakeBehavior failing = Saying("The pass key is 28884.");
  failing.fail_after_tokens = 3;
  for (const auto& worker : workers_) worker->SetBehavior(failing);
  const RecordedResponse response = router.Submit(Completion())->WaitForEnd();
  ASSERT_TRUE(response.error.has_value());
  EXPECT_THAT(*response.error,
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("lost after 3 tokens")));
  EXPECT_THAT(std::string(response.error->message()), HasSubstr("fake worker fails as told"));
  EXPECT_EQ(NumExecutions(), 1u);
}

TEST_F(DispatchTest, AnErrorOfTheModelIsNotRetried) {
  AddWorker();
  RouterStack& router = StartRouter();
  FakeBehavior failing;
  failing.fail_after_tokens = 0;
  failing.fail_in_band = true;
  failing.fail_status = absl::InternalError("NaN in the logits");
  workers_[0]->SetBehavior(failing);
  const RecordedResponse response = router.Submit(Completion())->WaitForEnd();
  ASSERT_TRUE(response.error.has_value());
  EXPECT_THAT(*response.error,
              StatusIs(absl::StatusCode::kInternal, HasSubstr("NaN in the logits")));
  EXPECT_EQ(NumExecutions(), 1u);
}

TEST_F(DispatchTest, WhatOneWorkerRejectsAnotherTakes) {
  AddWorker();
  AddWorker();
  RouterStack& router = StartRouter();
  AllSay("taken");
  FakeBehavior rejecting;
  rejecting.reject_seconds = 30;
  workers_[0]->SetBehavior(rejecting);
  SetBacklog(1, 10);
  const RecordedResponse response = router.Submit(Completion())->WaitForEnd();
  ASSERT_FALSE(response.error) << *response.error;
  EXPECT_EQ(response.Text(), "taken");
  EXPECT_THAT(workers_[0]->executions(), SizeIs(1));
}

TEST_F(DispatchTest, APromptGoesWhereItsPrefixIsCached) {
  AddWorker();
  AddWorker();
  RouterStack& router = StartRouter();
  for (size_t i = 0; i < 2; ++i) SetBacklog(i, 0);
  std::vector<TokenId> ids(2000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>((i * 7919) % 2000);
  const std::vector<Digest> chain = PrefixChain(FakeWorker::Options().prefix_root, ids);
  workers_[1]->SetCacheDeltas({{.sequence = 1, .reset = true, .added = chain}});
  ASSERT_TRUE(router.WaitForView([&](const ClusterView& view) {
    return std::ranges::any_of(view.groups, [&](const Group& group) {
      return group.cached != nullptr && group.cached->size() == chain.size();
    });
  }));
  const auto submit = [&](const std::vector<TokenId>& prompt) {
    GenerateRequest request;
    request.input = TokenInput{prompt};
    request.max_tokens = 1;
    const RecordedResponse response = router.Submit(std::move(request))->WaitForEnd();
    EXPECT_FALSE(response.error) << *response.error;
  };
  for (int i = 0; i < 3; ++i) submit(ids);
  EXPECT_THAT(workers_[1]->executions(), SizeIs(3));
  ids[0] = 1;  // shares nothing with what is cached
  submit(ids);
  EXPECT_THAT(workers_[0]->executions(), SizeIs(1));
}

TEST_F(DispatchTest, WhenAllAreFullARequestWaitsInTheQueue) {
  FakeWorker& worker = AddWorker();
  RouterStack& router = StartRouter();
  FakeBehavior rejecting;
  rejecting.reject_seconds = 0.1;
  worker.SetBehavior(rejecting);
  const auto sink = router.Submit(Completion());
  ASSERT_TRUE(worker.WaitFor([](const Executions& e) { return e.size() >= 3; }));
  EXPECT_FALSE(sink->WaitForEnd(absl::ZeroDuration()).done);
  worker.SetBehavior(Saying("at last"));
  const RecordedResponse response = sink->WaitForEnd();
  ASSERT_FALSE(response.error) << *response.error;
  EXPECT_EQ(response.Text(), "at last");
}

TEST_F(DispatchTest, OneLongJobWaitsAtAWorkerAndShortOnesPassIt) {
  FakeWorker& worker = AddWorker({.long_prompt_tokens = 1000});
  RouterStack& router = StartRouter();
  FakeBehavior stuck;  // admitted, prefill never begins
  stuck.num_progress = 0;
  stuck.hang_after_tokens = 0;
  worker.SetBehavior(stuck);
  const auto long_job = [] {
    GenerateRequest request;
    request.input = TokenInput{std::vector<TokenId>(2000, 7)};
    return request;
  };
  const auto first = router.Submit(long_job());
  ASSERT_TRUE(worker.WaitFor([](const Executions& e) { return e.size() == 1; }));
  const auto second = router.Submit(long_job());
  worker.SetBehavior(Saying("short"));
  const RecordedResponse response = router.Submit(Completion())->WaitForEnd();
  EXPECT_EQ(response.Text(), "short");
  EXPECT_THAT(worker.executions(), SizeIs(2));  // the second long job is still with the router
  EXPECT_FALSE(second->WaitForEnd(absl::ZeroDuration()).done);
}

TEST_F(DispatchTest, WithoutAnyWorkerARequestWaitsThenFails) {
  RouterStack::Options options{.workers = {"127.0.0.1:1"}};
  options.dispatcher.wait_for_group = absl::Milliseconds(300);
  RouterStack& router = StartRouter(std::move(options));
  const absl::Time begin = absl::Now();
  const RecordedResponse response = router.Submit(Completion())->WaitForEnd();
  ASSERT_TRUE(response.error.has_value());
  EXPECT_THAT(*response.error, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("300ms")));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(300));
  EXPECT_FALSE(router.intake().Ready());
}

TEST_F(DispatchTest, AWorkerThatComesInTimeServesWhatWaited) {
  FakeWorker& worker = AddWorker({.load = {.ready = false}});
  RouterStack::Options options{.workers = {worker.address()}};
  options.dispatcher.wait_for_group = absl::Seconds(20);
  router_ = std::make_unique<RouterStack>(std::move(options));
  worker.SetBehavior(Saying("here now"));
  const auto sink = router_->Submit(Completion());
  sink->WaitFor([](const RecordedResponse& r) { return r.queued.has_value(); });
  worker.SetLoad(FakeLoad{});
  EXPECT_EQ(sink->WaitForEnd().Text(), "here now");
}

TEST_F(DispatchTest, TheDeadlineEndsARunningRequest) {
  FakeWorker& worker = AddWorker();
  RouterStack& router = StartRouter();
  FakeBehavior hanging;
  hanging.hang_after_tokens = 1;
  worker.SetBehavior(hanging);
  GenerateRequest request = Completion();
  request.deadline = absl::Now() + absl::Milliseconds(400);
  const RecordedResponse response = router.Submit(std::move(request))->WaitForEnd();
  ASSERT_TRUE(response.error.has_value());
  EXPECT_EQ(response.error->code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(worker.WaitFor([](const Executions& e) { return e.at(0).cancelled; }));
  const std::optional<double> left = worker.executions().at(0).deadline_seconds;
  ASSERT_TRUE(left.has_value());
  EXPECT_GT(*left, 0);
  EXPECT_LE(*left, 0.4);
}

TEST_F(DispatchTest, ADeadlineThatCannotBeMetIsShedWithAHint) {
  AddWorker();
  RouterStack& router = StartRouter();
  SetBacklog(0, 100);
  GenerateRequest request = Completion();
  request.deadline = absl::Now() + absl::Seconds(20);
  const RecordedResponse response = router.Submit(std::move(request))->WaitForEnd();
  ASSERT_TRUE(response.error.has_value());
  EXPECT_EQ(response.error->code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NEAR(DetailOf(*response.error).retry_after_seconds.value_or(0), 80, 2);
  EXPECT_EQ(NumExecutions(), 0u);
}

TEST_F(DispatchTest, ATooLongPromptNamesTheWorkersLimit) {
  AddWorker({.max_model_len = 500});
  RouterStack& router = StartRouter();
  GenerateRequest request;
  request.input = TokenInput{std::vector<TokenId>(501, 7)};
  const RecordedResponse response = router.Submit(std::move(request))->WaitForEnd();
  ASSERT_TRUE(response.error.has_value());
  EXPECT_THAT(*response.error, StatusIs(absl::StatusCode::kInvalidArgument,
                                        "prompt has 501 tokens, model limit 500 (max_model_len)"));
  EXPECT_EQ(DetailOf(*response.error).field, "prompt");
}

TEST_F(DispatchTest, BadFieldsAreErrorsOfTheSink) {
  AddWorker();
  RouterStack& router = StartRouter();
  GenerateRequest stop = Completion();
  stop.stop = {""};
  EXPECT_EQ(DetailOf(*router.Submit(std::move(stop))->WaitForEnd().error).field, "stop");
  GenerateRequest utf8 = Completion("\xff");
  EXPECT_EQ(DetailOf(*router.Submit(std::move(utf8))->WaitForEnd().error).field, "prompt");
  GenerateRequest id;
  id.input = TokenInput{{1, 2, 2048}};
  EXPECT_THAT(*router.Submit(std::move(id))->WaitForEnd().error,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2048 at position 2")));
  GenerateRequest role;
  role.input = ChatInput{.messages = {{.role = "wizard", .content = "x"}}};
  EXPECT_EQ(DetailOf(*router.Submit(std::move(role))->WaitForEnd().error).field,
            "messages[0].role");
  EXPECT_EQ(NumExecutions(), 0u);
}

TEST_F(DispatchTest, ARequestHasATimeAndABoundOnIt) {
  AddWorker();
  RouterStack& router = StartRouter();
  for (const double seconds : {0.0, -1.0, 86401.0, std::nan("")}) {
    GenerateRequest request = Completion("x");
    request.model = "demo";
    request.timeout_seconds = seconds;
    const absl::Status refused =
        router.intake().Submit(std::move(request), std::make_shared<RecordingSink>());
    EXPECT_THAT(refused, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("86400")));
    EXPECT_EQ(DetailOf(refused).field, "timeout");
  }
  GenerateRequest request = Completion("x");
  request.timeout_seconds = 0.001;
  const RecordedResponse response = router.Submit(std::move(request))->WaitForEnd();
  ASSERT_TRUE(response.error.has_value());
  EXPECT_TRUE(absl::IsDeadlineExceeded(*response.error) ||
              absl::IsResourceExhausted(*response.error))
      << *response.error;
}

TEST_F(DispatchTest, OnlyTheEndOfATruncatedPromptIsRead) {
  FakeWorker& worker = AddWorker();
  RouterStack& router = StartRouter();
  AllSay("ok");
  const std::vector<TokenId> ids = Ids("one two three four five six");
  GenerateRequest request = Completion("one two three four five six");
  request.truncate_prompt_tokens = 3;
  router.Submit(std::move(request))->WaitForEnd();
  request = Completion("one two three four five six");
  request.truncate_prompt_tokens = -1;  // it all fits
  router.Submit(std::move(request))->WaitForEnd();
  const std::vector<FakeExecution> executions = worker.executions();
  ASSERT_THAT(executions, SizeIs(2));
  EXPECT_EQ(executions[0].prompt, std::vector<TokenId>(ids.end() - 3, ids.end()));
  EXPECT_EQ(executions[1].prompt, ids);
  request = Completion("x");
  request.truncate_prompt_tokens = 0;
  const RecordedResponse refused = router.Submit(std::move(request))->WaitForEnd();
  ASSERT_TRUE(refused.error.has_value());
  EXPECT_EQ(DetailOf(*refused.error).field, "truncate_prompt_tokens");
}

TEST_F(DispatchTest, AnUnknownModelIsNotFound) {
  AddWorker();
  RouterStack& router = StartRouter();
  GenerateRequest request = Completion();
  request.model = "gpt-17";
  EXPECT_THAT(router.intake().Submit(std::move(request), std::make_shared<RecordingSink>()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("gpt-17")));
}

TEST_F(DispatchTest, MoreRequestsThanTheLimitAreShedAndThePlaceComesBack) {
  FakeWorker& worker = AddWorker();
  RouterStack::Options options;
  options.dispatcher.max_requests = 2;
  RouterStack& router = StartRouter(std::move(options));
  FakeBehavior hanging;
  hanging.hang_after_tokens = 0;
  worker.SetBehavior(hanging);
  GenerateRequest first = Completion();
  const RequestId first_id = first.id;
  router.Submit(std::move(first));
  router.Submit(Completion());
  ASSERT_TRUE(worker.WaitFor([](const Executions& e) { return e.size() == 2; }));
  GenerateRequest third = Completion();
  third.model = router.model().name;
  const absl::Status shed = router.intake().Submit(third, std::make_shared<RecordingSink>());
  EXPECT_THAT(shed, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit 2")));
  EXPECT_TRUE(DetailOf(shed).retry_after_seconds.has_value());
  router.intake().Cancel(first_id);
  ASSERT_TRUE(worker.WaitFor([](const Executions& executions) {
    return std::any_of(executions.begin(), executions.end(),
                       [](const FakeExecution& e) { return e.cancelled; });
  }));
  worker.SetBehavior(Saying("ok"));
  EXPECT_EQ(router.Submit(Completion())->WaitForEnd().Text(), "ok");
}

TEST_F(DispatchTest, StopFailsWhatWaitsAndLetsRunningRequestsEnd) {
  FakeWorker& worker = AddWorker();
  RouterStack& router = StartRouter();
  FakeBehavior slow = Saying("a slow answer of some tokens");
  slow.token_interval = absl::Milliseconds(30);
  worker.SetBehavior(slow);
  const auto running = router.Submit(Completion());
  running->WaitFor([](const RecordedResponse& r) { return !r.deltas.empty(); });
  FakeBehavior rejecting;
  rejecting.reject_seconds = 5;
  worker.SetBehavior(rejecting);
  const auto waiting = router.Submit(Completion());
  ASSERT_TRUE(worker.WaitFor([](const Executions& e) { return e.size() == 2 && e[1].ended; }));
  router.dispatcher().Stop(absl::Seconds(10));
  EXPECT_EQ(running->WaitForEnd(absl::ZeroDuration()).Text(), "a slow answer of some tokens");
  const RecordedResponse failed = waiting->WaitForEnd(absl::ZeroDuration());
  ASSERT_TRUE(failed.error.has_value());
  EXPECT_EQ(failed.error->code(), absl::StatusCode::kUnavailable);
  GenerateRequest late = Completion();
  late.model = router.model().name;
  EXPECT_EQ(router.intake().Submit(late, std::make_shared<RecordingSink>()).code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(DispatchTest, StopEndsRunningRequestsWhenTheGraceIsOver) {
  FakeWorker& worker = AddWorker();
  RouterStack& router = StartRouter();
  FakeBehavior hanging;
  hanging.hang_after_tokens = 1;
  worker.SetBehavior(hanging);
  const auto sink = router.Submit(Completion());
  sink->WaitFor([](const RecordedResponse& r) { return !r.deltas.empty(); });
  const absl::Time begin = absl::Now();
  router.dispatcher().Stop(absl::Milliseconds(200));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(3));
  EXPECT_EQ(sink->WaitForEnd(absl::ZeroDuration()).error->code(), absl::StatusCode::kUnavailable);
}

TEST_F(DispatchTest, MetricsCountWhatHappened) {
  AddWorker();
  RouterStack& router = StartRouter();
  AllSay("hello");
  router.Submit(Completion())->WaitForEnd();
  GenerateRequest bad = Completion();
  bad.num_choices = 0;
  router.Submit(std::move(bad))->WaitForEnd();
  const std::string text = RenderMetrics(router.metrics().registry());
  for (const char* line : {"requests_received_total 2", "requests_total{outcome=\"stop\"} 1",
                           "requests_total{outcome=\"invalid_argument\"} 1", "groups_ready 1",
                           "time_to_first_token_seconds_count 1"}) {
    EXPECT_THAT(text, HasSubstr(std::string("longhaul_router_") + line));
  }
}

}  // namespace
}  // namespace longhaul::router
