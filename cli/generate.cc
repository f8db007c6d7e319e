#include "cli/generate.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/batch_input.h"
#include "cli/batch_output.h"
#include "cli/batch_run.h"
#include "cli/child_log.h"
#include "cli/cluster_loop.h"
#include "cli/console.h"
#include "cli/local_cluster.h"
#include "cli/prompt_file.h"
#include "cli/prompt_run.h"
#include "cli/signal_watch.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace longhaul::cli {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

int Say(Console& console, const absl::Status& status, int exit_code) {
  console.Line(absl::StrCat("longhaul: ", status.message()));
  return exit_code;
}

// Writes to a file that may take its time, such as a pager's pipe; kCancelled if a signal stops us.
absl::Status WriteText(int fd, std::string_view text, SignalWatch& signals) {
  // What a pipe takes at once after it said that it takes something.
  constexpr size_t kAtOnce = 4096;
  while (!text.empty()) {
    std::array<pollfd, 2> entries = {pollfd{.fd = fd, .events = POLLOUT, .revents = 0},
                                     pollfd{.fd = signals.fd(), .events = POLLIN, .revents = 0}};
    if (poll(entries.data(), entries.size(), -1) < 0 && errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("cannot write the text: ", strerror(errno)));
    }
    if (entries[0].revents == 0) {
      // A child's end is seen by who waits for its answer.
      const std::optional<int> signal = signals.Next(absl::ZeroDuration());
      if (!signal.has_value() || signal == SIGCHLD) continue;
      return absl::CancelledError(absl::StrCat("stopped by ", strsignal(*signal)));
    }
    const ssize_t size = write(fd, text.data(), std::min(text.size(), kAtOnce));
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (size < 0) {
      return absl::UnavailableError(absl::StrCat("cannot write the text: ", strerror(errno)));
    }
    text.remove_prefix(static_cast<size_t>(size));
  }
  return absl::OkStatus();
}

absl::Status CheckTask(const GenerateTask& task) {
  const bool is_batch = !task.input_file.empty() || !task.output_file.empty();
  if (is_batch == !task.prompt_file.empty()) {
    return absl::InvalidArgumentError(
        "generate takes either --prompt-file or --input-file with --output-file");
  }
  if (is_batch && (task.input_file.empty() || task.output_file.empty())) {
    return absl::InvalidArgumentError("--input-file and --output-file belong together");
  }
  if (task.prompt.raw && task.prompt.system.has_value()) {
    return absl::InvalidArgumentError("--system is for a chat, --raw is none");
  }
  return absl::OkStatus();
}

// A cluster whose programs' logs are reduced to what matters.
class QuietCluster {
 public:
  // Errors: as LocalCluster's; what the programs said is on the console.
  static absl::StatusOr<std::unique_ptr<QuietCluster>> Start(const std::string& model_dir,
                                                             const GenerateConfig& config,
                                                             Console& console,
                                                             SignalWatch& signals) {
    console.State(absl::StrCat("starting ", model_dir));
    ASSIGN_OR_RETURN(auto log, ChildLog::Start(console));
    auto cluster = LocalCluster::Start({.model_dir = model_dir,
                                        .engine = config.engine,
                                        .request_timeout_seconds = config.request_timeout_seconds,
                                        .stderr_fd = log->write_fd()},
                                       signals);
    console.ClearState();
    if (!cluster.ok()) {
      if (!absl::IsCancelled(cluster.status())) log->Release(ChildLog::Kept::kShow);
      log.reset();  // all of it is on the console before the error is
      return cluster.status();
    }
    log->Release(ChildLog::Kept::kDrop);
    return std::unique_ptr<QuietCluster>(new QuietCluster(std::move(log), *std::move(cluster)));
  }
  // Programs that are told to stop warn of each other's absence.
  ~QuietCluster() { log_->Hold(); }
  QuietCluster(const QuietCluster&) = delete;
  QuietCluster& operator=(const QuietCluster&) = delete;

  const LocalCluster& cluster() const { return *cluster_; }

 private:
  QuietCluster(std::unique_ptr<ChildLog> log, std::unique_ptr<LocalCluster> cluster)
      : log_(std::move(log)), cluster_(std::move(cluster)) {}
  const std::unique_ptr<ChildLog> log_;
  const std::unique_ptr<LocalCluster> cluster_;
};

int ExitCodeOf(const absl::Status& status, const SignalWatch& signals) {
  if (status.ok()) return 0;
  const auto signal = signals.stop_signal();
  return signal.has_value() ? 128 + *signal : kFailed;
}

int GeneratePrompt(const std::string& model_dir, const GenerateConfig& config,
                   const GenerateTask& task, const std::string& model, Console& console) {
  const auto prompt = ReadPromptFile(task.prompt_file);
  if (!prompt.ok()) return Say(console, prompt.status(), kUsage);
  auto body = PromptBody(task.prompt, model, *prompt);
  if (!body.ok()) return Say(console, body.status(), kUsage);

  SignalWatch signals;
  const auto started = QuietCluster::Start(model_dir, config, console, signals);
  if (!started.ok()) return Say(console, started.status(), ExitCodeOf(started.status(), signals));
  const LocalCluster& cluster = (*started)->cluster();
  ClusterLoop loop(cluster, signals);
  absl::Status result;
  const auto end = [&](const absl::Status& status) {
    result = status;
    loop.Stop();
  };
  PromptRun run(
      loop.context(), console,
      {.address = cluster.rest(),
       .path = PromptPath(task.prompt),
       .body = std::make_shared<const std::string>(*std::move(body)),
       .timeout = absl::Seconds(config.request_timeout_seconds),
       .write =
           [&signals](std::string_view text) { return WriteText(STDOUT_FILENO, text, signals); },
       .on_end = end});
  loop.Run([&](const absl::Status& trouble) {
    run.Cancel();
    console.ClearState();
    end(trouble);
  });
  if (isatty(STDOUT_FILENO) == 1) {
    // For the prompt of the shell; a file has the text and nothing else.
    if (const absl::Status status = WriteText(STDOUT_FILENO, "\n", signals); !status.ok()) {
      Say(console, status, kFailed);
    }
  }
  if (!result.ok()) Say(console, result, kFailed);
  return ExitCodeOf(result, signals);
}

std::string BatchSummary(const BatchRun::Tally& tally, int64_t num_requests, bool whole) {
  std::string text = absl::StrFormat("%d of %d requests answered", tally.succeeded, num_requests);
  if (tally.earlier > 0) absl::StrAppendFormat(&text, " (%d by earlier runs)", tally.earlier);
  if (tally.refused > 0) absl::StrAppendFormat(&text, ", %d refused", tally.refused);
  if (tally.failed > 0) absl::StrAppendFormat(&text, ", %d failed", tally.failed);
  if (!whole || tally.failed > 0) absl::StrAppend(&text, "; the same command goes on from here");
  return text;
}

int GenerateBatch(const std::string& model_dir, const GenerateConfig& config,
                  const GenerateTask& task, const std::string& model, Console& console) {
  const auto input = BatchInput::Open(task.input_file, model);
  if (!input.ok()) return Say(console, input.status(), kUsage);
  const auto output = BatchOutput::Open(task.output_file);
  if (!output.ok()) return Say(console, output.status(), kUsage);
  BatchRun::Tally earlier;
  const auto counts = (*input)->Count([&](const std::string& custom_id) {
    const std::optional<bool> succeeded = (*output)->Succeeded(custom_id);
    if (succeeded.has_value()) (*succeeded ? earlier.succeeded : earlier.refused)++;
    return succeeded.has_value();
  });
  if (!counts.ok()) return Say(console, counts.status(), kUsage);
  if (counts->left == 0) {
    earlier.earlier = counts->requests;
    console.Line(BatchSummary(earlier, counts->requests, /*whole=*/true));
    return earlier.refused == 0 ? 0 : kFailed;
  }

  SignalWatch signals;
  const auto started = QuietCluster::Start(model_dir, config, console, signals);
  if (!started.ok()) return Say(console, started.status(), ExitCodeOf(started.status(), signals));
  const LocalCluster& cluster = (*started)->cluster();
  ClusterLoop loop(cluster, signals);
  absl::Status result;
  BatchRun run(loop.context(), **input, **output, console,
               {.address = cluster.rest(),
                .concurrency = config.concurrency,
                .num_requests = counts->requests,
                .timeout = absl::Seconds(config.request_timeout_seconds),
                .on_end = [&](const absl::Status& status) {
                  result = status;
                  loop.Stop();
                }});
  loop.Run([&](const absl::Status& trouble) {
    result = trouble;
    // Who is stopped by a signal has no results yet; who lost the cluster has that for an error.
    run.Stop(absl::IsCancelled(trouble) ? absl::OkStatus() : trouble);
    loop.Stop();
  });
  if (!result.ok()) Say(console, result, kFailed);
  console.Line(BatchSummary(run.tally(), counts->requests, result.ok()));
  if (!result.ok()) return ExitCodeOf(result, signals);
  return run.tally().succeeded == counts->requests ? 0 : kFailed;
}

}  // namespace

int Generate(const std::string& model_dir, const GenerateConfig& config, const GenerateTask& task) {
  // A reader that goes away is an error of the write, so that the cluster is stopped in order.
  signal(SIGPIPE, SIG_IGN);
  // Of our own only what went wrong; the console has the rest.
  SetMinLogSeverity(LogSeverity::kWarning);
  Console console(STDERR_FILENO);
  if (const absl::Status status = CheckTask(task); !status.ok()) {
    return Say(console, status, kUsage);
  }
  const auto model = ServedName(model_dir, config.engine.served_model_name);
  if (!model.ok()) return Say(console, model.status(), kUsage);
  return task.prompt_file.empty() ? GenerateBatch(model_dir, config, task, *model, console)
                                  : GeneratePrompt(model_dir, config, task, *model, console);
}

}  // namespace longhaul::cli
