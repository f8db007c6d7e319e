#include "worker/leader/server.h"

#include <cstdio>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "worker/leader/leader.h"
#include "worker/leader/offload_folder.h"

namespace longhaul::worker::leader {
namespace {

std::vector<std::string> RankCommand(const LeaderConfig& config, const GroupShape& shape,
                                     const std::string& this_program,
                                     const std::string& offload_folder, int32_t rank) {
  const int32_t ranks_on_host = config.ranks_on_host > 0 ? config.ranks_on_host : shape.num_ranks();
  const int32_t metrics_port =
      config.rank_metrics_port > 0 ? config.rank_metrics_port + rank : config.rank_metrics_port;
  std::vector<std::string> command = {
      config.rank_program.empty() ? this_program : config.rank_program, "rank"};
  RankSettings settings = config;
  const std::vector<std::string> flags = FlagsFor(FieldsOf(settings));
  command.insert(command.end(), flags.begin(), flags.end());
  command.insert(command.end(), {"--ranks-on-host", absl::StrCat(ranks_on_host), "--cuda-device",
                                 absl::StrCat(config.first_cuda_device + rank), "--kv-offload-dir",
                                 offload_folder, "--metrics-port", absl::StrCat(metrics_port)});
  return command;
}

void WaitFor(const std::stop_token& stop) {
  Mutex mutex;
  CondVar stopped;
  const std::stop_callback on_stop(stop, [&mutex, &stopped] {
    MutexLock lock(mutex);
    stopped.SignalAll();
  });
  MutexLock lock(mutex);
  while (!stop.stop_requested()) stopped.Wait(mutex);
}

}  // namespace

absl::Status RunLeader(const LeaderConfig& config, const std::string& this_program,
                       const std::string& secret, const std::stop_token& stop) {
  ASSIGN_OR_RETURN(const LeaderModel model, LeaderModel::Load(config));
  const SystemClock clock;
  std::unique_ptr<OffloadFolder> offload;  // outlives the ranks
  if (!config.kv_offload_dir.empty() && config.kv_offload_disk_gib > 0) {
    ASSIGN_OR_RETURN(offload,
                     OffloadFolder::Create(config.kv_offload_dir, config.kv_offload_disk_gib,
                                           model.shape.num_ranks()));
  }
  SubprocessRankLauncher launcher(
      [&](int32_t rank) {
        return RankCommand(config, model.shape, this_program,
                           offload == nullptr ? "" : offload->path(), rank);
      },
      {{"LONGHAUL_GROUP_SECRET", secret}});
  Leader leader(config, model, secret, GroupOptions{}, launcher, clock);
  std::unique_ptr<MetricsServer> metrics_server;
  std::string metrics_address = "none";
  if (config.metrics_port >= 0) {
    ASSIGN_OR_RETURN(metrics_server, MetricsServer::Start(absl::StrCat(config.metrics_host, ":",
                                                                       config.metrics_port),
                                                          leader.metrics().registry()));
    metrics_address = absl::StrCat(config.metrics_host, ":", metrics_server->port());
  }
  const absl::Status started = leader.Start(stop);
  if (stop.stop_requested()) return absl::OkStatus();
  RETURN_IF_ERROR(started);
  std::printf("ready role=leader listen=%s metrics=%s\n", leader.address().c_str(),
              metrics_address.c_str());
  std::fflush(stdout);
  WaitFor(stop);
  LOG(INFO) << "event=stopping";
  leader.Stop();
  return absl::OkStatus();
}

}  // namespace longhaul::worker::leader
