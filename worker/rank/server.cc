#include "worker/rank/server.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/clock.h"
#include "common/logging.h"
#include "common/metrics.h"
#include "common/model_config.h"
#include "common/queue.h"
#include "common/status_macros.h"
#include "worker/backend/cpu_backend.h"
#include "worker/comm/local_communicator.h"
#include "worker/model/checkpoint.h"
#include "worker/model/model_digest.h"
#include "worker/model/qwen2.h"
#include "worker/model/qwen2_tensors.h"
#include "worker/model/weights.h"
#include "worker/rank/control_stream.h"
#include "worker/rank/executor.h"
#include "worker/rank/kv_cache.h"
#include "worker/rank/pipeline_stage.h"
#include "worker/rank/rank_metrics.h"
#include "worker/rank/sampler.h"
#include "worker/rank/step_progress.h"

namespace longhaul::worker::rank {
namespace {

// Plans a leader may have in flight on a rank; more breaks the protocol.
constexpr size_t kMaxPlans = 256;
// Beside one prompt of full length, an automatic KV cache has room for short requests: 32K tokens.
constexpr int64_t kShortRequestBlocks = 128;
constexpr absl::Duration kDialTimeout = absl::Seconds(30);

model::AttentionOptions AttentionOf(const RankConfig& config) {
  return {.temperature = config.attention_temperature == "request"
                             ? AttentionTemperature::kRequest
                             : AttentionTemperature::kPosition,
          .dual_chunk = config.dual_chunk_attention != "off"};
}

// The executor thread's work: loads what Start asks for, then executes plans.
class Worker {
 public:
  Worker(const RankConfig& config, const ModelConfig& model_config,
         const model::Checkpoint& checkpoint)
      : config_(config),
        model_config_(model_config),
        checkpoint_(checkpoint),
        kv_shape_{.num_kv_heads = model_config.num_kv_heads,
                  .head_dim = model_config.head_dim,
                  .dtype = config.kv_cache_dtype == "bf16" ? backend::KvDType::kBFloat16
                                                           : backend::KvDType::kFloat32},
        backend_(backend::MakeCpuBackend(config.threads)),
        capacity_blocks_(CountBlocks()),
        work_(kMaxPlans) {}

  // Blocks that the memory budget holds in all layers of the model, as it was at the start.
  int64_t capacity_blocks() const { return capacity_blocks_; }

  // kInvalidArgument if the KV cache asked for is larger than the memory that is free: it is
  // touched as it is used, so this would show only later, and as a kill.
  absl::Status CheckMemory() const {
    const int64_t block = KvCache::BlockBytes(*backend_, kv_shape_, model_config_.num_layers);
    const int64_t free = backend_->FreeMemoryBytes();
    if (capacity_blocks_ <= free / block) return absl::OkStatus();
    constexpr double kGib = int64_t{1} << 30;
    return absl::InvalidArgumentError(absl::StrFormat(
        "kv-cache-gib is %g, free memory is %.1f GiB: lower kv-cache-gib or free memory",
        config_.kv_cache_gib, static_cast<double>(free) / kGib));
  }

  const StepProgress& progress() const { return progress_; }
  const std::shared_ptr<prometheus::Registry>& registry() const { return metrics_.registry(); }

  // From any thread: kResourceExhausted if the leader sends more than kMaxPlans ahead.
  absl::Status Push(std::variant<GroupPlace, StepPlan> work) { return work_.Push(std::move(work)); }
  // From any thread: Run returns after the layer it is in.
  void Stop() {
    stop_.store(true);
    work_.Close();
  }

  // The executor thread. Tells `stream` what was done, or why it cannot go on.
  void Run(ControlStream& stream, const std::string& metrics_address) {
    while (std::optional<std::variant<GroupPlace, StepPlan>> work =
               work_.Pop(absl::InfiniteFuture())) {
      if (stop_.load()) return;
      absl::Status status;
      if (const GroupPlace* place = std::get_if<GroupPlace>(&*work)) {
        status = Load(*place, stream);
        if (status.ok()) {
          std::printf("ready role=rank rank=%d metrics=%s\n", config_.rank,
                      metrics_address.c_str());
          std::fflush(stdout);
        }
      } else {
        status = Execute(std::get<StepPlan>(*work), stream);
      }
      if (status.ok()) continue;
      if (!stop_.load()) {
        LOG(ERROR) << "event=rank_failed why=\"" << status << "\"";
        stream.Fail(status);
      }
      return;
    }
  }

 private:
  int64_t CountBlocks() const {
    const int64_t block = KvCache::BlockBytes(*backend_, kv_shape_, model_config_.num_layers);
    const double budget = config_.kv_cache_gib * (int64_t{1} << 30);
    int64_t blocks = static_cast<int64_t>(budget) / block;
    if (config_.kv_cache_gib == 0) {
      const int64_t longest =
          (model_config_.max_position_embeddings + kKvBlockTokens - 1) / kKvBlockTokens;
      blocks = std::min(longest + kShortRequestBlocks, backend_->FreeMemoryBytes() / 2 / block);
    }
    return std::min<int64_t>(blocks, std::numeric_limits<int32_t>::max());
  }

  absl::Status Load(const GroupPlace& place, ControlStream& stream) {
    if (place.tensor_parallel_size != 1 || place.pipeline_parallel_size != 1) {
      return absl::UnimplementedError(absl::StrCat(
          "group of ", place.tensor_parallel_size, " x ", place.pipeline_parallel_size,
          " ranks (tensor x pipeline parallel): this build has no communicator between processes"));
    }
    if (place.layer_begin != 0 || place.layer_end != model_config_.num_layers) {
      return absl::InvalidArgumentError(absl::StrCat("layers [", place.layer_begin, ", ",
                                                     place.layer_end, ") for the only rank of ",
                                                     model_config_.num_layers, " layers"));
    }
    if (place.kv_blocks > capacity_blocks_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("leader asks for ", place.kv_blocks, " KV blocks, kv-cache-gib ",
                       config_.kv_cache_gib, " holds ", capacity_blocks_));
    }
    const absl::Time begin = clock_.Now();
    ASSIGN_OR_RETURN(model::Weights weights, model::LoadWeights(model_config_, checkpoint_,
                                                                {.layer_begin = place.layer_begin,
                                                                 .layer_end = place.layer_end},
                                                                *backend_));
    const int64_t weight_bytes = weights.bytes;
    ASSIGN_OR_RETURN(KvCache cache,
                     KvCache::Create(*backend_, kv_shape_, place.layer_end - place.layer_begin,
                                     place.kv_blocks));
    const int64_t kv_bytes = cache.bytes();
    communicator_ = std::move(comm::MakeLocalGroup(1).front());
    stage_ = std::make_unique<PipelineStage>(
        std::make_unique<model::Qwen2>(model_config_, AttentionOf(config_), std::move(weights),
                                       *backend_),
        std::move(cache), *communicator_);
    sampler_ = std::make_unique<Sampler>(model_config_.vocab_size, *backend_);
    scorer_ = std::make_unique<PromptScorer>(*stage_, *backend_);
    executor_ = std::make_unique<Executor>(*stage_, sampler_.get(), scorer_.get(), clock_);
    const double seconds = absl::ToDoubleSeconds(clock_.Now() - begin);
    LOG(INFO) << "event=loaded rank=" << config_.rank << " incarnation=" << place.incarnation
              << " seconds=" << seconds << " weight_bytes=" << weight_bytes
              << " kv_blocks=" << place.kv_blocks << " kv_bytes=" << kv_bytes;
    metrics_.Loaded(seconds, weight_bytes, kv_bytes, place.kv_blocks);
    return stream.SendStarted(
        {.seconds = seconds, .weight_bytes = weight_bytes, .kv_bytes = kv_bytes});
  }

  absl::Status Execute(const StepPlan& plan, ControlStream& stream) {
    progress_.Begin(plan.step_id);
    absl::StatusOr<StepResult> result = executor_->Execute(plan, stop_);
    progress_.End();
    RETURN_IF_ERROR(result);
    metrics_.StepExecuted(plan, *result, executor_->num_sequences());
    return stream.SendStepDone(*result);
  }

  const RankConfig& config_;
  const ModelConfig& model_config_;
  const model::Checkpoint& checkpoint_;
  const backend::KvShape kv_shape_;
  const SystemClock clock_;
  RankMetrics metrics_;
  StepProgress progress_;
  std::atomic<bool> stop_ = false;
  // In order of construction; the executor thread's from Load on.
  const std::unique_ptr<backend::Backend> backend_;
  const int64_t capacity_blocks_;  // counted once: free memory changes between two looks
  std::unique_ptr<comm::Communicator> communicator_;
  std::unique_ptr<PipelineStage> stage_;
  std::unique_ptr<Sampler> sampler_;
  std::unique_ptr<PromptScorer> scorer_;
  std::unique_ptr<Executor> executor_;
  BoundedQueue<std::variant<GroupPlace, StepPlan>> work_;
};

}  // namespace

absl::Status RunRank(const RankConfig& config, const std::string& secret, std::stop_token stop) {
  ASSIGN_OR_RETURN(const ModelConfig model_config, ModelConfig::Load(config.model));
  ASSIGN_OR_RETURN(const model::Checkpoint checkpoint, model::Checkpoint::Open(config.model));
  RETURN_IF_ERROR(model::CheckQwen2Tensors(model_config, checkpoint));
  ASSIGN_OR_RETURN(const Digest digest, model::ModelDigest(config.model));

  Worker worker(config, model_config, checkpoint);
  if (worker.capacity_blocks() < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv-cache-gib ", config.kv_cache_gib, " holds not even one block of ",
                     kKvBlockTokens, " tokens of this model: raise it, or free memory"));
  }
  RETURN_IF_ERROR(worker.CheckMemory());
  std::unique_ptr<MetricsServer> metrics_server;
  std::string metrics_address = "none";
  if (config.metrics_port >= 0) {
    ASSIGN_OR_RETURN(metrics_server, MetricsServer::Start(absl::StrCat(config.metrics_host, ":",
                                                                       config.metrics_port),
                                                          worker.registry()));
    metrics_address = absl::StrCat(config.metrics_host, ":", metrics_server->port());
  }
  const Registration registration{.secret = secret,
                                  .rank = static_cast<uint32_t>(config.rank),
                                  .model_digest = digest,
                                  .kv_capacity_blocks = worker.capacity_blocks()};
  auto opened = ControlStream::Open(config.control, registration, worker.progress(),
                                    absl::Now() + kDialTimeout, stop);
  if (stop.stop_requested()) return absl::OkStatus();
  RETURN_IF_ERROR(opened);
  const std::unique_ptr<ControlStream> stream = *std::move(opened);
  LOG(INFO) << "event=registered rank=" << config.rank << " model_digest=" << digest.ToString()
            << " kv_capacity_blocks=" << worker.capacity_blocks();

  std::thread executor([&] { worker.Run(*stream, metrics_address); });
  absl::Status ended;
  {
    const std::stop_callback on_stop(stop, [&] { stream->Cancel(); });
    ended =
        stream->Run({.on_start = [&](GroupPlace place) { return worker.Push(std::move(place)); },
                     .on_plan = [&](StepPlan plan) { return worker.Push(std::move(plan)); }});
  }
  worker.Stop();
  executor.join();
  if (stop.stop_requested()) ended = absl::OkStatus();
  LOG(INFO) << "event=stream_ended rank=" << config.rank << " why=\"" << ended << "\"";
  return ended;
}

}  // namespace longhaul::worker::rank
