#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/logging.h"
#include "tests/testing/status_matchers.h"
#include "worker/leader/engine_core.h"

namespace longhaul::testing {

// Keeps the plans that the engine sends.
class PlanRecorder final : public worker::leader::PlanSink {
 public:
  void Send(uint64_t incarnation, worker::StepPlan plan, std::optional<double> predicted) override {
    incarnations.push_back(incarnation);
    predictions.push_back(predicted);
    plans.push_back(std::move(plan));
  }
  void Fail(uint64_t, std::string reason) override { failures.push_back(std::move(reason)); }

  std::vector<worker::StepPlan> plans;
  std::vector<uint64_t> incarnations;
  std::vector<std::optional<double>> predictions;
  std::vector<std::string> failures;
};

class SilentReader final : public worker::leader::EventLog::Reader {
 public:
  void OnEvents() override {}
};

// An engine core with a clock of its own and ranks that the test plays.
class EngineCoreFixture : public ::testing::Test {
 protected:
  static constexpr TokenId kEnd = 99;

  struct Answer {
    std::shared_ptr<worker::leader::EventLog> log = std::make_shared<worker::leader::EventLog>();
    std::shared_ptr<SilentReader> reader = std::make_shared<SilentReader>();
    RequestId id;
  };

  static worker::leader::EngineOptions Options(int32_t depth = 1, int32_t batched_tokens = 512,
                                               bool prefix_caching = false) {
    return {.scheduler = {.max_model_len = 10'000,
                          .max_num_batched_tokens = batched_tokens,
                          .max_num_seqs = 4,
                          .max_waiting = 2,
                          .max_waiting_long = 1,
                          .long_prompt_tokens = 4'000,
                          .num_layers = 2,
                          .num_stages = depth,
                          .max_plans_in_flight = depth,
                          .prefix_caching = prefix_caching},
            .end_tokens = {kEnd},
            .vocab_size = 1000,
            .max_kept_tokens = 3'000};
  }
  explicit EngineCoreFixture(int32_t depth = 1, int32_t batched_tokens = 512,
                             bool prefix_caching = false)
      : EngineCoreFixture(Options(depth, batched_tokens, prefix_caching)) {}
  explicit EngineCoreFixture(const worker::leader::EngineOptions& options)
      : core_(options, sink_, requests_, board_, metrics_) {}

  worker::leader::Request MakeRequest(int64_t prompt_tokens, int32_t max_tokens) {
    worker::leader::Request request;
    request.id = {.high = 7, .low = ++next_id_};
    request.prompt.assign(prompt_tokens, 1);
    request.stopping.max_tokens = max_tokens;
    request.arrival = now_;
    return request;
  }
  Answer Submit(worker::leader::Request request) {
    Answer answer;
    answer.id = request.id;
    answer.log->AddReader(answer.reader);
    core_.Submit(std::move(request), answer.log, now_);
    core_.Advance(now_);
    return answer;
  }
  Answer Submit(int64_t prompt_tokens, int32_t max_tokens) {
    return Submit(MakeRequest(prompt_tokens, max_tokens));
  }
  void Up(uint64_t incarnation = 1, int32_t kv_blocks = 100) {
    core_.GroupUp(incarnation, {.kv = {.blocks = kv_blocks}, .hardware = "two cores"});
    core_.Advance(now_);
  }
  void Down(uint64_t incarnation = 1) {
    core_.GroupDown(incarnation, absl::UnavailableError("rank 0: killed"), now_);
    core_.Advance(now_);
  }
  // The ranks execute the newest plan; each sample is `token`.
  void Execute(TokenId token = 5, double seconds = 0.01) { Done(Result(token, seconds)); }
  // How they answer it.
  worker::StepResult Result(TokenId token = 5, double seconds = 0.01) const {
    const worker::StepPlan& plan = sink_.plans.back();
    worker::StepResult result;
    result.step_id = plan.step_id;
    result.seconds = seconds;
    for (const worker::Unit& unit : plan.units) {
      for (const worker::Slice& slice : unit.slices) {
        if (slice.sample) result.sampled.push_back({slice.sequence_id, {.token = token}});
        ScorePrompt(slice, result);
      }
    }
    return result;
  }
  // The newest start of a sequence.
  const worker::SequenceStart& StartOf(SequenceId id) const {
    for (auto plan = sink_.plans.rbegin(); plan != sink_.plans.rend(); ++plan) {
      for (const worker::SequenceStart& start : plan->starts) {
        if (start.sequence_id == id) return start;
      }
    }
    LOG(FATAL) << "no start of sequence " << id;
    return sink_.plans[0].starts[0];
  }
  // As a rank says it: logprob -p for the token at position p.
  void ScorePrompt(const worker::Slice& slice, worker::StepResult& result) const {
    const worker::SequenceStart& start = StartOf(slice.sequence_id);
    if (!start.sampling.prompt_logprobs || slice.begin >= start.prompt_tokens) return;
    std::vector<TokenId> next(slice.token_ids.begin() + 1, slice.token_ids.end());
    if (slice.next_prompt_token) next.push_back(*slice.next_prompt_token);
    if (next.empty()) return;
    worker::SequencePromptLogprobs scored = {
        .sequence_id = slice.sequence_id, .begin = slice.begin + 1, .tokens = {}};
    for (size_t i = 0; i < next.size(); ++i) {
      const auto position = static_cast<float>(scored.begin + static_cast<int64_t>(i));
      scored.tokens.push_back({.token = next[i], .logprob = -position, .top_logprobs = {}});
      scored.tokens.back().top_logprobs.resize(*start.sampling.prompt_logprobs, {3, -0.5f});
    }
    result.prompt_logprobs.push_back(std::move(scored));
  }
  void Done(const worker::StepResult& result) {
    core_.StepDone(sink_.incarnations.back(), result, now_);
    core_.Advance(now_);
  }
  void Pass(absl::Duration time) {
    now_ += time;
    core_.Advance(now_);
  }

  static std::vector<worker::leader::Event> Events(const Answer& answer) {
    std::vector<worker::leader::Event> events;
    while (std::optional<worker::leader::Event> event = answer.log->Read(events.size()).event) {
      events.push_back(*std::move(event));
    }
    return events;
  }
  template <typename T>
  static std::vector<T> Only(const Answer& answer) {
    std::vector<T> found;
    for (const worker::leader::Event& event : Events(answer)) {
      if (const T* match = std::get_if<T>(&event)) found.push_back(*match);
    }
    return found;
  }
  static std::vector<TokenId> Output(const Answer& answer) {
    std::vector<TokenId> output;
    for (const worker::leader::TokensEvent& event : Only<worker::leader::TokensEvent>(answer)) {
      for (const GeneratedToken& token : event.tokens) output.push_back(token.token);
    }
    return output;
  }
  static worker::leader::FinishedEvent Finished(const Answer& answer) {
    const std::vector<worker::leader::FinishedEvent> found =
        Only<worker::leader::FinishedEvent>(answer);
    EXPECT_EQ(found.size(), 1u);
    EXPECT_TRUE(answer.log->closed());
    return found.empty() ? worker::leader::FinishedEvent{} : found[0];
  }

  absl::Time now_ = absl::FromUnixSeconds(1'000'000);
  uint64_t next_id_ = 0;
  PlanRecorder sink_;
  worker::leader::RequestTable requests_;
  worker::leader::LoadBoard board_;
  worker::leader::LeaderMetrics metrics_;
  worker::leader::EngineCore core_;
};

}  // namespace longhaul::testing
