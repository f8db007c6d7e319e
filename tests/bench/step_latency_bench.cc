// What passes between two steps: a leader in this process, a rank and a client in processes of
// their own, one sequence that decodes.
//
//   step_latency_bench --model models/demo [--tokens 500] [--rounds 5] [--rank-program
//   longhaul-worker]
//
// Prints for each round the medians and 99th percentiles of a step's period (from sending a plan to
// sending the next), of what the rank's executor was busy in it, and of the rest; of the rest, what
// passed in the leader (from hearing of the last step to sending the plan). Then context switches
// and processor time a step of both processes, and the processor time of an idle second.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "common/subprocess.h"
#include "longhaul/v1/worker.grpc.pb.h"
#include "tests/testing/temp_dir.h"
#include "worker/leader/leader.h"

namespace longhaul::worker::leader {
namespace {

constexpr uint32_t kPromptTokens = 16;
// Between two rounds.
constexpr absl::Duration kIdle = absl::Seconds(1);

struct StepTimes {
  double period = 0;  // seconds, all of them
  double busy = 0;
  double in_leader = 0;
};

// Stands between the engine and its group, and writes down when what passes. Thread-safe: the
// engine sends, the group answers.
class StepTimer final : public PlanSink, public GroupListener {
 public:
  void Connect(PlanSink& sink, GroupListener& listener) {
    sink_ = &sink;
    listener_ = &listener;
  }

  void Send(uint64_t incarnation, StepPlan plan, std::optional<double> predicted) override {
    const StepId step = plan.step_id;
    sink_->Send(incarnation, std::move(plan), predicted);
    const absl::Time now = absl::Now();
    MutexLock lock(mutex_);
    if (last_step_ + 1 == step && heard_ > sent_) {
      times_.push_back({.period = absl::ToDoubleSeconds(now - sent_),
                        .busy = busy_,
                        .in_leader = absl::ToDoubleSeconds(now - heard_)});
    }
    last_step_ = step;
    sent_ = now;
  }
  void Fail(uint64_t incarnation, std::string reason) override {
    sink_->Fail(incarnation, std::move(reason));
  }

  void OnStepDone(uint64_t incarnation, StepResult result) override {
    {
      MutexLock lock(mutex_);
      heard_ = absl::Now();
      busy_ = result.seconds;
    }
    listener_->OnStepDone(incarnation, std::move(result));
  }
  void OnGroupUp(uint64_t incarnation, const GroupFacts& facts) override {
    listener_->OnGroupUp(incarnation, facts);
  }
  void OnStepStuck(uint64_t incarnation) override { listener_->OnStepStuck(incarnation); }
  void OnGroupDown(uint64_t incarnation, absl::Status reason) override {
    listener_->OnGroupDown(incarnation, std::move(reason));
  }

  std::vector<StepTimes> Take() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return std::exchange(times_, {});
  }

 private:
  PlanSink* sink_ = nullptr;
  GroupListener* listener_ = nullptr;
  Mutex mutex_;
  StepId last_step_ GUARDED_BY(mutex_) = 0;
  absl::Time sent_ GUARDED_BY(mutex_);
  absl::Time heard_ GUARDED_BY(mutex_);
  double busy_ GUARDED_BY(mutex_) = 0;
  std::vector<StepTimes> times_ GUARDED_BY(mutex_);
};

// Of all threads of a process so far.
struct Effort {
  int64_t switches = 0;
  double cpu_seconds = 0;
};

Effort EffortOf(const std::string& pid) {
  Effort effort;
  for (const auto& task : std::filesystem::directory_iterator("/proc/" + pid + "/task")) {
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);) {
      const size_t colon = line.find("voluntary_ctxt_switches:");
      if (colon == 0) effort.switches += std::stoll(line.substr(line.find(':') + 1));
    }
    std::ifstream schedstat(task.path() / "schedstat");
    double nanoseconds = 0;
    schedstat >> nanoseconds;
    effort.cpu_seconds += nanoseconds / 1e9;
  }
  return effort;
}

// The child of this process that was started with this argument.
std::string ChildWith(const std::string& argument) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream stat(entry.path() / "stat");
    std::string pid, name, state, parent;
    if (!(stat >> pid >> name >> state >> parent) || parent != std::to_string(getpid())) continue;
    std::ifstream cmdline(entry.path() / "cmdline");
    for (std::string word; std::getline(cmdline, word, '\0');) {
      if (word == argument) return pid;
    }
  }
  LOG(FATAL) << "no child with argument " << argument;
  return "";
}

double Quantile(std::vector<double> values, double q) {
  CHECK(!values.empty());
  const auto at = values.begin() + static_cast<int64_t>(q * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

template <typename Value>
void Print(const char* what, const std::vector<StepTimes>& times, Value value) {
  std::vector<double> values;
  for (const StepTimes& step : times) values.push_back(value(step) * 1e6);
  std::printf("  %-10s %8.1f %8.1f", what, Quantile(values, 0.5), Quantile(values, 0.99));
}

// A router's part: requests of one token, then `tokens`, each read to its end; a line for each.
int RunClient(const std::string& address, int tokens, int rounds) {
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  const auto stub = v1::Worker::NewStub(channel);
  grpc::ClientContext watch_context;
  v1::WatchRequest watch_request;
  watch_request.set_protocol_version(kProtocolVersion);
  const auto watch = stub->Watch(&watch_context, watch_request);
  v1::WatchEvent hello;
  CHECK(watch->Read(&hello) && hello.has_hello());
  for (int round = 0; round < rounds; ++round) {
    grpc::ClientContext context;
    const auto stream = stub->Execute(&context);
    v1::ExecuteRequest request;
    v1::ExecuteHeader* header = request.mutable_header();
    const RequestId id = RequestId::Random();
    header->mutable_request_id()->set_high(id.high);
    header->mutable_request_id()->set_low(id.low);
    header->set_model(hello.hello().model());
    header->set_model_digest(hello.hello().model_digest());
    header->set_prompt_tokens(kPromptTokens);
    v1::Sampling* sampling = header->mutable_sampling();
    sampling->set_temperature(0);
    sampling->set_top_p(1);
    sampling->set_top_k(0);
    sampling->set_min_p(0);
    sampling->set_repetition_penalty(1);
    sampling->set_presence_penalty(0);
    sampling->set_frequency_penalty(0);
    sampling->set_seed(1);
    header->mutable_stopping()->set_max_tokens(static_cast<uint32_t>(tokens));
    header->mutable_stopping()->set_ignore_eos(true);
    stream->Write(request);
    for (uint32_t i = 0; i < kPromptTokens; ++i) request.mutable_prompt()->add_ids(i + 3);
    stream->Write(request);
    stream->WritesDone();
    v1::ExecuteEvent event;
    int received = 0;
    while (stream->Read(&event)) received += event.tokens().tokens_size();
    const grpc::Status status = stream->Finish();
    CHECK(status.ok() && received == tokens) << status.error_message() << " tokens=" << received;
    std::puts("done");
    std::fflush(stdout);
    absl::SleepFor(kIdle);
  }
  watch_context.TryCancel();
  return 0;
}

struct Options {
  std::string model;
  std::string load_format = "auto";
  std::string rank_program;
  std::string control = "127.0.0.1:0";
  int tokens = 500;
  int rounds = 5;
  std::string client;  // address: this process is the client
};

int RunLeader(const Options& options) {
  const std::string programs = ProgramFolder().value();
  LeaderConfig config;
  config.model = options.model;
  config.load_format = options.load_format;
  const LeaderModel model = LeaderModel::Load(config).value();
  const SystemClock clock;
  SubprocessRankLauncher launcher(
      [&](int32_t) {
        return std::vector<std::string>{options.rank_program.empty()
                                            ? programs + "/../bin/longhaul-worker"
                                            : options.rank_program,
                                        "rank",
                                        "--model",
                                        options.model,
                                        "--load-format",
                                        options.load_format,
                                        "--threads",
                                        "1",
                                        "--kv-cache-gib",
                                        "0.05",
                                        "--metrics-port",
                                        "-1"};
      },
      {{"LONGHAUL_GROUP_SECRET", "secret"}});
  LeaderMetrics metrics;
  LoadBoard board;
  RequestTable requests;
  BoundedQueue<absl::Status> first_start(1);
  Group group({.shape = model.shape, .model_digest = model.digest, .secret = "secret"}, launcher,
              clock, [&](absl::Status status) { CHECK(first_start.Push(status).ok()); });
  StepTimer timer;
  Engine engine({.scheduler = {.max_model_len = 4096,
                               .max_num_batched_tokens = 1024,
                               .max_num_seqs = 8,
                               .max_waiting = 8,
                               .long_prompt_tokens = 4096,
                               .num_layers = model.num_layers},
                 .prefix = model.prefix,
                 .end_tokens = model.end_tokens,
                 .vocab_size = model.vocab_size},
                timer, requests, board, metrics, clock);
  timer.Connect(group, engine);
  const auto control = ControlServer::Start(
      options.control, [&](const std::shared_ptr<RankLink>& link, RankEvent event) {
        group.OnRankEvent(link, std::move(event));
      });
  CHECK(control.ok()) << control.status();
  group.Start((*control)->address(), timer);
  const absl::Status started = *first_start.Pop(absl::InfiniteFuture());
  CHECK(started.ok()) << started;
  const testing::TempDir folder;
  const auto service = WorkerService::Start("unix:" + folder.path() + "/listen",
                                            {.name = "bench",
                                             .digest = model.digest,
                                             .prefix_root = model.prefix.root,
                                             .vocab_size = model.vocab_size,
                                             .max_model_len = 4096,
                                             .kv_blocks = group.kv_blocks(),
                                             .long_prompt_tokens = 4096},
                                            engine, requests, board, clock);
  CHECK(service.ok()) << service.status();
  const auto client = Subprocess::Start(
      {.argv = {programs + "/step_latency_bench", "--client", (*service)->address(), "--tokens",
                absl::StrCat(options.tokens), "--rounds", absl::StrCat(options.rounds)},
       .capture_stdout = true});
  CHECK(client.ok()) << client.status();
  const std::string pid = ChildWith("rank");
  std::printf("microseconds: median, 99th percentile\n");
  for (int round = 0; round < options.rounds; ++round) {
    const Effort begin[] = {EffortOf("self"), EffortOf(pid)};
    const auto line = (*client)->ReadLine(absl::Now() + absl::Minutes(1));
    CHECK(line.ok()) << line.status();
    const Effort end[] = {EffortOf("self"), EffortOf(pid)};
    const std::vector<StepTimes> times = timer.Take();
    CHECK(!times.empty());
    Print("period", times, [](const StepTimes& step) { return step.period; });
    Print("busy", times, [](const StepTimes& step) { return step.busy; });
    Print("rest", times, [](const StepTimes& step) { return step.period - step.busy; });
    Print("in leader", times, [](const StepTimes& step) { return step.in_leader; });
    for (int i = 0; i < 2; ++i) {
      std::printf("  %s: %.1f switches, %.1f us cpu", i == 0 ? "leader" : "rank",
                  static_cast<double>(end[i].switches - begin[i].switches) / options.tokens,
                  (end[i].cpu_seconds - begin[i].cpu_seconds) * 1e6 / options.tokens);
    }
    absl::SleepFor(kIdle / 2);
    std::printf(
        "  idle: %.3f%% and %.3f%% of a core\n",
        (EffortOf("self").cpu_seconds - end[0].cpu_seconds) * 200 / absl::ToDoubleSeconds(kIdle),
        (EffortOf(pid).cpu_seconds - end[1].cpu_seconds) * 200 / absl::ToDoubleSeconds(kIdle));
    std::fflush(stdout);
  }
  (*client)->Wait(absl::Now() + absl::Seconds(10));
  engine.Stop();
  (*service)->Shutdown(absl::ZeroDuration());
  group.Stop();
  return 0;
}

}  // namespace
}  // namespace longhaul::worker::leader

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  CLI::App app("What passes between two decode steps of a group of one rank");
  longhaul::worker::leader::Options options;
  app.add_option("--model", options.model, "directory of the model");
  app.add_option("--load-format", options.load_format, "auto or dummy");
  app.add_option("--rank-program", options.rank_program, "longhaul-worker; else this build's");
  app.add_option("--control", options.control, "where the rank connects");
  app.add_option("--tokens", options.tokens, "of a round")->check(CLI::Range(10, 3000));
  app.add_option("--rounds", options.rounds, "requests, one after the other");
  app.add_option("--client", options.client, "this process is the client of that address");
  CLI11_PARSE(app, argc, argv);
  if (!options.client.empty()) {
    return longhaul::worker::leader::RunClient(options.client, options.tokens, options.rounds);
  }
  CHECK(!options.model.empty()) << "--model is needed";
  return longhaul::worker::leader::RunLeader(options);
}
