#include "cli/local_cluster.h"

#include <signal.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "cli/http_probe.h"
#include "common/logging.h"
#include "common/model_config.h"
#include "common/status_macros.h"
#include "common/text/utf8.h"

namespace longhaul::cli {
namespace {

// A router lets running requests end within its own bound before it exits.
constexpr absl::Duration kStopGrace = absl::Seconds(15);
constexpr absl::Duration kReadyPoll = absl::Milliseconds(50);
constexpr size_t kMaxNameBytes = 256;

// The value of `key` in a ready line "ready role=router rest=127.0.0.1:8000 ...".
absl::StatusOr<std::string> ReadyValue(const std::string& line, const std::string& key) {
  for (const auto word : absl::StrSplit(line, ' ')) {
    const std::string text(word);
    if (text.rfind(key + "=", 0) == 0) return text.substr(key.size() + 1);
  }
  return absl::InternalError(absl::StrCat("no ", key, " in \"", line, "\""));
}

// The flags of a leader, given only where they differ from its own default.
std::vector<std::string> LeaderFlags(const EngineConfig& config) {
  const int32_t ranks = config.groups * config.tensor_parallel_size * config.pipeline_parallel_size;
  std::vector<std::string> flags = {"--tensor-parallel-size",
                                    absl::StrCat(config.tensor_parallel_size),
                                    "--pipeline-parallel-size",
                                    absl::StrCat(config.pipeline_parallel_size),
                                    "--layer-split",
                                    config.layer_split,
                                    "--ranks-on-host",
                                    absl::StrCat(ranks),
                                    "--load-format",
                                    config.load_format,
                                    "--device",
                                    config.device,
                                    "--gpu-memory-utilization",
                                    absl::StrCat(config.gpu_memory_utilization),
                                    "--kv-cache-dtype",
                                    config.kv_cache_dtype,
                                    "--threads",
                                    absl::StrCat(config.threads),
                                    "--attention-temperature",
                                    config.attention_temperature,
                                    "--dual-chunk-attention",
                                    config.dual_chunk_attention,
                                    "--warm-up-seconds",
                                    absl::StrCat(config.warm_up_seconds),
                                    "--cost-model-dir",
                                    config.cost_model_dir};
  if (config.enforce_eager) flags.emplace_back("--enforce-eager=true");
  if (!config.enable_prefix_caching) flags.emplace_back("--enable-prefix-caching=false");
  auto add = [&flags](const char* name, auto value) {
    if (value == 0) return;
    flags.emplace_back(name);
    flags.push_back(absl::StrCat(value));
  };
  add("--max-model-len", config.max_model_len);
  add("--max-num-batched-tokens", config.max_num_batched_tokens);
  add("--max-num-seqs", config.max_num_seqs);
  add("--step-target-ms", config.step_target_ms);
  add("--max-step-ms", config.max_step_ms);
  add("--max-prompt-logprobs-tokens", config.max_prompt_logprobs_tokens);
  add("--kv-cache-gib", config.kv_cache_gib);
  add("--kv-offload-gib", config.kv_offload_gib);
  if (!config.kv_offload_dir.empty()) {
    flags.insert(flags.end(), {"--kv-offload-dir", config.kv_offload_dir, "--kv-offload-disk-gib",
                               absl::StrCat(config.kv_offload_disk_gib)});
  }
  return flags;
}

}  // namespace

absl::StatusOr<std::string> ServedName(const std::string& model_dir, const std::string& given) {
  std::string name = given;
  if (name.empty()) {
    std::error_code error;
    // Without trailing slashes and links.
    const auto path = std::filesystem::canonical(model_dir, error);
    name = error ? model_dir : path.filename().string();
  }
  const auto is_control = [](unsigned char c) { return c < 0x20 || c == 0x7F; };
  if (!name.empty() && name.size() <= kMaxNameBytes &&
      text::FindInvalidUtf8(name) == std::string::npos &&
      std::none_of(name.begin(), name.end(), is_control)) {
    return name;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      given.empty() ? "the directory's name" : "served-model-name", " \"",
      absl::CHexEscape(name.substr(0, kMaxNameBytes)), "\" is no name for a model: 1 to ",
      kMaxNameBytes, " bytes of UTF-8 without control characters",
      given.empty() ? "; choose another with --served-model-name" : ""));
}

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Start(const Options& options,
                                                                  SignalWatch& signals) {
  // Found wrong here, a path is one line instead of two programs' complaints.
  RETURN_IF_ERROR(ModelConfig::Load(options.model_dir));
  std::error_code error;
  const std::string parent = std::filesystem::temp_directory_path(error).string();
  if (error) return absl::UnavailableError("no directory for temporary files: " + error.message());
  ASSIGN_OR_RETURN(auto sockets, SocketFolder::Make(parent));
  std::unique_ptr<LocalCluster> cluster(new LocalCluster(std::move(sockets)));
  ASSIGN_OR_RETURN(cluster->model_,
                   ServedName(options.model_dir, options.engine.served_model_name));
  RETURN_IF_ERROR(cluster->StartPrograms(options));
  const absl::Time deadline = absl::Now() + absl::Seconds(options.engine.start_timeout_seconds);
  RETURN_IF_ERROR(cluster->AwaitReady(deadline, signals));
  return cluster;
}

LocalCluster::LocalCluster(std::unique_ptr<SocketFolder> sockets) : sockets_(std::move(sockets)) {}

LocalCluster::~LocalCluster() { Stop(); }

absl::Status LocalCluster::StartPrograms(const Options& options) {
  ASSIGN_OR_RETURN(const std::string folder, ProgramFolder());
  auto start = [&](const std::string& name, std::vector<std::string> argv) -> absl::Status {
    ASSIGN_OR_RETURN(auto process, Subprocess::Start({.argv = std::move(argv),
                                                      .extra_env = {},
                                                      .capture_stdout = true,
                                                      .stderr_fd = options.stderr_fd}));
    LOG(INFO) << "event=started program=" << name << " pid=" << process->pid();
    children_.push_back({.name = name, .process = std::move(process)});
    return absl::OkStatus();
  };
  std::vector<std::string> workers;
  const int32_t group_ranks =
      options.engine.tensor_parallel_size * options.engine.pipeline_parallel_size;
  for (int32_t i = 0; i < options.engine.groups; ++i) {
    workers.push_back(sockets_->Socket(absl::StrCat("group-", i)));
    std::vector<std::string> leader = {folder + "/longhaul-worker",
                                       "leader",
                                       "--model",
                                       options.model_dir,
                                       "--served-model-name",
                                       model_,
                                       "--listen",
                                       workers.back(),
                                       "--control-listen",
                                       sockets_->Socket(absl::StrCat("control-", i)),
                                       "--rank-program",
                                       folder + "/longhaul-worker",
                                       "--first-cuda-device",
                                       absl::StrCat(i * group_ranks)};
    for (std::string& flag : LeaderFlags(options.engine)) leader.push_back(std::move(flag));
    const std::string which = options.engine.groups > 1 ? absl::StrCat(" of group ", i) : "";
    RETURN_IF_ERROR(start("longhaul-worker leader" + which, std::move(leader)));
  }
  std::vector<std::string> router = {folder + "/longhaul-router",
                                     "--model",
                                     options.model_dir,
                                     "--served-model-name",
                                     model_,
                                     "--host",
                                     options.host,
                                     "--port",
                                     absl::StrCat(options.port),
                                     "--grpc-port",
                                     absl::StrCat(options.grpc_port)};
  for (const std::string& worker : workers) router.insert(router.end(), {"--worker", worker});
  if (const int32_t tokens = options.engine.max_prompt_logprobs_tokens; tokens > 0) {
    router.insert(router.end(), {"--max-prompt-logprobs-tokens", absl::StrCat(tokens)});
  }
  for (const std::string& origin : options.allowed_origins) {
    router.insert(router.end(), {"--allowed-origins", origin});
  }
  if (options.request_timeout_seconds) {
    for (const char* flag : {"--default-timeout-seconds", "--max-timeout-seconds"}) {
      router.insert(router.end(), {flag, absl::StrCat(*options.request_timeout_seconds)});
    }
  }
  return start("longhaul-router", std::move(router));
}

absl::Status LocalCluster::AwaitReady(absl::Time deadline, SignalWatch& signals) {
  ASSIGN_OR_RETURN(const std::string router_line, ReadyLine(children_.back(), deadline, signals));
  for (size_t i = 0; i + 1 < children_.size(); ++i) {
    RETURN_IF_ERROR(ReadyLine(children_[i], deadline, signals));
  }
  ASSIGN_OR_RETURN(rest_, ReadyValue(router_line, "rest"));
  ASSIGN_OR_RETURN(grpc_, ReadyValue(router_line, "grpc"));
  // Until the router, too, has seen that the group is ready.
  while (absl::Now() < deadline) {
    if (HttpStatusOf(rest_, "/ready", absl::Seconds(2)) == 200) return absl::OkStatus();
    RETURN_IF_ERROR(Watch(kReadyPoll, signals));
  }
  return absl::DeadlineExceededError("the router saw no ready group in time");
}

absl::StatusOr<std::string> LocalCluster::ReadyLine(const Child& child, absl::Time deadline,
                                                    SignalWatch& signals) {
  while (absl::Now() < deadline) {
    absl::StatusOr<std::string> line = child.process->ReadLine(absl::Now() + kReadyPoll);
    if (line.ok() && line->rfind("ready ", 0) == 0) return line;
    // The output of a program that is about to end closes first.
    const bool closed = absl::IsOutOfRange(line.status());
    RETURN_IF_ERROR(Watch(closed ? kReadyPoll : absl::ZeroDuration(), signals));
  }
  return absl::DeadlineExceededError(absl::StrCat(
      child.name, " was not ready in time; raise --start-timeout-seconds if it needs longer"));
}

// Looks after the children for `pause`; an error if one ended or a signal asks us to stop.
absl::Status LocalCluster::Watch(absl::Duration pause, SignalWatch& signals) const {
  RETURN_IF_ERROR(CheckAlive());
  const std::optional<int> signal = signals.Next(pause);
  if (signal.has_value() && signal != SIGCHLD) {
    return absl::CancelledError(absl::StrCat("stopped by ", strsignal(*signal)));
  }
  return absl::OkStatus();
}

absl::Status LocalCluster::CheckAlive() const {
  for (const Child& child : children_) {
    if (const auto exit = child.process->Poll()) {
      return absl::UnavailableError(
          absl::StrCat(child.name, " ended with ", exit->ToString(), "; the lines above say why"));
    }
  }
  return absl::OkStatus();
}

void LocalCluster::Stop() {
  const auto stop_last = [this] {
    const Child& child = children_.back();
    if (!child.process->Poll().has_value()) {
      const Subprocess::Exit exit = child.process->Stop(kStopGrace);
      LOG(INFO) << "event=stopped program=" << child.name << " how=\"" << exit.ToString() << "\"";
    }
    children_.pop_back();
  };
  if (!children_.empty()) stop_last();
  for (const Child& leader : children_) leader.process->Signal(SIGTERM);
  while (!children_.empty()) stop_last();
}

}  // namespace longhaul::cli
