#include "worker/rank/server.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/clock.h"
#include "common/logging.h"
#include "common/metrics.h"
#include "common/model_config.h"
#include "common/planning/memory_budget.h"
#include "common/queue.h"
#include "common/stack_dump.h"
#include "common/status_macros.h"
#include "worker/backend/backend.h"
#include "worker/backend/host_memory.h"
#include "worker/group_shape.h"
#include "worker/model/checkpoint.h"
#include "worker/model/dummy_weights.h"
#include "worker/model/model_digest.h"
#include "worker/model/qwen2.h"
#include "worker/model/qwen2_tensors.h"
#include "worker/model/weights.h"
#include "worker/rank/control_stream.h"
#include "worker/rank/device_memory.h"
#include "worker/rank/disk_tier.h"
#include "worker/rank/executor.h"
#include "worker/rank/group_communicators.h"
#include "worker/rank/host_tier.h"
#include "worker/rank/kv_budget.h"
#include "worker/rank/kv_cache.h"
#include "worker/rank/kv_mover.h"
#include "worker/rank/offload_budget.h"
#include "worker/rank/pipeline_stage.h"
#include "worker/rank/rank_device.h"
#include "worker/rank/rank_metrics.h"
#include "worker/rank/sampler.h"
#include "worker/rank/shard_communicator.h"
#include "worker/rank/stage_link.h"
#include "worker/rank/step_progress.h"
#include "worker/rank/stream_rendezvous.h"

namespace longhaul::worker::rank {
namespace {

// Plans a leader may have in flight on a rank; more breaks the protocol.
constexpr size_t kMaxPlans = 256;
constexpr absl::Duration kDialTimeout = absl::Seconds(30);
// How long the executor looks for the next plan before it sleeps, while it holds sequences: the
// leader's answer takes about as long as a wake-up.
constexpr absl::Duration kPlanSpin = absl::Microseconds(200);
// How often an idle rank looks whether its peers are there.
constexpr absl::Duration kPeerLook = absl::Seconds(1);

model::AttentionOptions AttentionOf(const RankConfig& config) {
  return {.temperature = config.attention_temperature == "request"
                             ? AttentionTemperature::kRequest
                             : AttentionTemperature::kPosition,
          .dual_chunk = config.dual_chunk_attention != "off"};
}

// The executor thread's work: takes the place that Start names, loads, then executes plans.
class Worker {
 public:
  Worker(const RankConfig& config, const ModelConfig& model_config, const GroupShape& shape,
         const model::Checkpoint* checkpoint, RankDevice device)
      : config_(config),
        model_config_(model_config),
        shape_(shape),
        layers_(shape.LayersOf(config.rank)),
        checkpoint_(checkpoint),
        kv_shape_{.num_kv_heads = model_config.num_kv_heads / shape.tensor_parallel_size(),
                  .head_dim = model_config.head_dim,
                  .dtype = device.kv_dtype},
        has_own_memory_(device.has_own_memory),
        backend_(std::move(device.backend)),
        communicators_({.host = config.comm_host,
                        .interface = config.comm_interface,
                        .cuda_device = device.has_own_memory ? std::optional(config.cuda_device)
                                                             : std::nullopt}),
        work_(kMaxPlans) {}

  // How many blocks this rank can hold, as the memory is now. Errors: those of BudgetKv,
  // BudgetDeviceMemory and BudgetDeviceKv.
  absl::StatusOr<KvBudget> BudgetBlocks() {
    if (has_own_memory_) {
      ASSIGN_OR_RETURN(budget_, BudgetDeviceBlocks());
      return budget_;
    }
    ASSIGN_OR_RETURN(
        budget_, BudgetKv({.kv_cache_gib = config_.kv_cache_gib,
                           .free_bytes = backend_->FreeMemoryBytes(),
                           .block_bytes = KvCache::BlockBytes(*backend_, kv_shape_,
                                                              layers_.end - layers_.begin),
                           .longest_prompt = model_config_.max_position_embeddings,
                           .ranks_on_host = config_.ranks_on_host,
                           .group_ranks = std::min(config_.ranks_on_host, shape_.num_ranks())}));
    return budget_;
  }
  // How many it can keep off the device. Errors: those of BudgetOffload. After BudgetBlocks.
  absl::StatusOr<OffloadBudget> BudgetSlots() {
    const int64_t block_bytes =
        KvCache::BlockBytes(*backend_, kv_shape_, layers_.end - layers_.begin);
    ASSIGN_OR_RETURN(
        offload_,
        BudgetOffload({.host_gib = config_.kv_offload_gib,
                       .disk_gib = config_.kv_offload_dir.empty() ? 0 : config_.kv_offload_disk_gib,
                       .block_bytes = block_bytes,
                       .free_bytes = backend::FreeHostMemoryBytes(),
                       .cache_bytes = has_own_memory_ ? 0 : budget_.capacity * block_bytes,
                       .group_ranks = std::min(config_.ranks_on_host, shape_.num_ranks())}));
    // Now rather than after the weights are loaded.
    if (offload_.disk_slots > 0) {
      ASSIGN_OR_RETURN(
          disk_, DiskTier::Open(absl::StrCat(config_.kv_offload_dir, "/rank", config_.rank, ".kv"),
                                offload_.disk_slots, block_bytes));
    }
    return offload_;
  }

  std::string hardware() const { return backend_->HardwareName(); }
  const StepProgress& progress() const { return progress_; }
  const std::shared_ptr<prometheus::Registry>& registry() const { return metrics_.registry(); }

  // From any thread: kResourceExhausted if the leader sends more than kMaxPlans ahead.
  absl::Status Push(std::variant<GroupPlace, StepPlan> work) { return work_.Push(std::move(work)); }
  // From any thread: Run returns after the layer it is in, whatever its peers do. Idempotent.
  void Stop() {
    stop_.store(true);
    work_.Close();
    communicators_.Abort();
  }

  // The executor thread. Tells `stream` what was done, or why it cannot go on.
  void Run(ControlStream& stream, StreamRendezvous& rendezvous,
           const std::string& metrics_address) {
    while (!work_.closed()) {
      std::optional<std::variant<GroupPlace, StepPlan>> work = work_.Pop(NextLook(), PlanSpin());
      if (stop_.load()) return;
      absl::Status status;
      if (!work.has_value()) {
        status = loaded_ ? communicators_.Poll() : absl::OkStatus();
      } else if (const GroupPlace* place = std::get_if<GroupPlace>(&*work)) {
        status = Load(*place, stream, rendezvous);
        loaded_ = status.ok();
        if (loaded_) {
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
  absl::StatusOr<KvBudget> BudgetDeviceBlocks() const {
    const int64_t free_bytes = backend_->FreeMemoryBytes();
    ASSIGN_OR_RETURN(const planning::MemoryBudget memory,
                     BudgetDeviceMemory(config_, model_config_, shape_, free_bytes));
    const int64_t block_bytes =
        KvCache::BlockBytes(*backend_, kv_shape_, layers_.end - layers_.begin);
    CHECK(memory.kv_block == block_bytes) << memory.kv_block << " != " << block_bytes;
    return BudgetDeviceKv({.kv_cache_gib = config_.kv_cache_gib,
                           .utilization = config_.gpu_memory_utilization,
                           .free_bytes = free_bytes,
                           .weight_bytes = memory.weights,
                           .activation_bytes = memory.Fixed() - memory.weights,
                           .block_bytes = block_bytes});
  }

  model::WeightRange Range() const {
    return {.layer_begin = layers_.begin,
            .layer_end = layers_.end,
            .tensor_parallel_rank = shape_.ShardOf(config_.rank),
            .tensor_parallel_size = shape_.tensor_parallel_size()};
  }

  absl::Time NextLook() const {
    return loaded_ && shape_.num_ranks() > 1 ? clock_.Now() + kPeerLook : absl::InfiniteFuture();
  }

  absl::Duration PlanSpin() const {
    return executor_ != nullptr && executor_->num_sequences() > 0 ? kPlanSpin
                                                                  : absl::ZeroDuration();
  }

  // What Start says must be what this rank has registered for.
  absl::Status CheckPlace(const GroupPlace& place) const {
    if (place.tensor_parallel_size != shape_.tensor_parallel_size() ||
        place.pipeline_parallel_size != shape_.pipeline_parallel_size() ||
        place.layer_begin != layers_.begin || place.layer_end != layers_.end) {
      return absl::InvalidArgumentError(absl::StrCat(
          "leader starts rank ", config_.rank, " of ", place.tensor_parallel_size, " x ",
          place.pipeline_parallel_size, " (tensor x pipeline parallel) with layers [",
          place.layer_begin, ", ", place.layer_end, "); its own settings say ",
          shape_.tensor_parallel_size(), " x ", shape_.pipeline_parallel_size(), " with layers [",
          layers_.begin, ", ", layers_.end, ")"));
    }
    if (place.kv_blocks > budget_.limit) {
      return absl::ResourceExhaustedError(
          absl::StrCat("leader asks for ", place.kv_blocks, " KV blocks, kv-cache-gib ",
                       config_.kv_cache_gib, " holds ", budget_.limit));
    }
    if (place.host_slots > offload_.host_slots || place.disk_slots > offload_.disk_slots) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "leader asks for ", place.host_slots, " slots in memory and ", place.disk_slots,
          " on disk, registered were ", offload_.host_slots, " and ", offload_.disk_slots));
    }
    return absl::OkStatus();
  }

  absl::Status Load(const GroupPlace& place, ControlStream& stream, StreamRendezvous& rendezvous) {
    RETURN_IF_ERROR(CheckPlace(place));
    const absl::Time begin = clock_.Now();
    // First, because all ranks are here now: they load at their own pace.
    RETURN_IF_ERROR(communicators_.Connect(shape_, config_.rank, rendezvous))
        << "connecting with the group";
    const int32_t shards = shape_.tensor_parallel_size();
    ASSIGN_OR_RETURN(model::Weights weights,
                     checkpoint_ == nullptr
                         ? model::MakeDummyWeights(model_config_, Range(), *backend_)
                         : model::LoadWeights(model_config_, *checkpoint_, Range(), *backend_));
    const int64_t weight_bytes = weights.bytes;
    ASSIGN_OR_RETURN(KvCache cache, KvCache::Create(*backend_, kv_shape_,
                                                    layers_.end - layers_.begin, place.kv_blocks));
    const int64_t kv_bytes = cache.bytes();
    if (shards > 1) {
      sums_ = std::make_unique<ShardCommunicator>(communicators_.tensor(), *backend_);
    }
    stage_ = std::make_unique<PipelineStage>(
        std::make_unique<model::Qwen2>(model_config_, AttentionOf(config_), std::move(weights),
                                       *backend_, sums_.get()),
        std::move(cache), StageLink(communicators_.pipeline(), *backend_));
    if (stage_->has_logits()) {
      sampler_ = std::make_unique<Sampler>(model_config_.vocab_size, *backend_);
    }
    if (stage_->is_last()) scorer_ = std::make_unique<PromptScorer>(*stage_, *backend_);
    ASSIGN_OR_RETURN(HostTier host,
                     HostTier::Create(place.host_slots, stage_->cache().block_bytes()));
    mover_ = std::make_unique<KvMover>(
        stage_->cache(), *backend_, std::move(host), std::move(disk_), clock_,
        [this](const KvMover::Outcome& outcome) { metrics_.BlockMoved(outcome); });
    executor_ =
        std::make_unique<Executor>(*stage_, sampler_.get(), scorer_.get(), clock_, mover_.get());
    const double seconds = absl::ToDoubleSeconds(clock_.Now() - begin);
    LOG(INFO) << "event=loaded rank=" << config_.rank << " incarnation=" << place.incarnation
              << " seconds=" << seconds << " weight_bytes=" << weight_bytes
              << " kv_blocks=" << place.kv_blocks << " kv_bytes=" << kv_bytes
              << " host_slots=" << place.host_slots << " disk_slots=" << place.disk_slots;
    metrics_.Loaded(seconds, weight_bytes, kv_bytes, place.kv_blocks);
    return stream.SendStarted(
        {.seconds = seconds, .weight_bytes = weight_bytes, .kv_bytes = kv_bytes});
  }

  absl::Status Execute(const StepPlan& plan, ControlStream& stream) {
    progress_.Begin(plan.step_id);
    const absl::StatusOr<StepResult> result = executor_->Execute(plan, stop_);
    progress_.End();
    RETURN_IF_ERROR(result);
    // On a device the abort of a transfer ends the work that waits for it as if it were done.
    RETURN_IF_ERROR(communicators_.Poll());
    // First: the leader plans the next step meanwhile.
    RETURN_IF_ERROR(stream.SendStepDone(*result));
    metrics_.StepExecuted(plan, *result, executor_->num_sequences());
    return absl::OkStatus();
  }

  const RankConfig& config_;
  const ModelConfig& model_config_;
  const GroupShape shape_;
  const GroupShape::Layers layers_;
  const model::Checkpoint* const checkpoint_;  // null: dummy weights
  const backend::KvShape kv_shape_;
  const bool has_own_memory_;  // the backend, for this rank alone
  const SystemClock clock_;
  RankMetrics metrics_;
  StepProgress progress_;
  std::atomic<bool> stop_ = false;
  // In order of construction; the executor thread's from Load on.
  const std::unique_ptr<backend::Backend> backend_;
  KvBudget budget_;  // counted once: free memory changes between two looks
  OffloadBudget offload_;
  DiskTier disk_;  // until mover_ has it
  GroupCommunicators communicators_;
  bool loaded_ = false;
  std::unique_ptr<ShardCommunicator> sums_;
  std::unique_ptr<PipelineStage> stage_;
  std::unique_ptr<Sampler> sampler_;
  std::unique_ptr<PromptScorer> scorer_;
  std::unique_ptr<KvMover> mover_;
  std::unique_ptr<Executor> executor_;
  BoundedQueue<std::variant<GroupPlace, StepPlan>> work_;
};

void LogStacks() {
  LOG(ERROR) << "event=stacks why=\"the leader finds the step stuck\"";
  const absl::Status dumped = DumpStacks(STDERR_FILENO);
  if (!dumped.ok()) LOG(ERROR) << "event=stacks_failed why=\"" << dumped << "\"";
}

}  // namespace

absl::Status RunRank(const RankConfig& config, const std::string& secret, std::stop_token stop) {
  ASSIGN_OR_RETURN(const ModelConfig model_config, ModelConfig::Load(config.model));
  std::optional<model::Checkpoint> checkpoint;  // none with dummy weights
  Digest digest;
  if (config.load_format == "dummy") {
    ASSIGN_OR_RETURN(digest, model::DummyModelDigest(config.model));
  } else {
    ASSIGN_OR_RETURN(checkpoint, model::Checkpoint::Open(config.model));
    RETURN_IF_ERROR(model::CheckQwen2Tensors(model_config, *checkpoint));
    ASSIGN_OR_RETURN(digest, model::ModelDigest(config.model));
  }

  ASSIGN_OR_RETURN(const GroupShape shape,
                   GroupShape::Make({.tensor_parallel_size = config.tensor_parallel_size,
                                     .pipeline_parallel_size = config.pipeline_parallel_size,
                                     .layer_split = config.layer_split},
                                    model_config));
  if (config.rank >= shape.num_ranks()) {
    return absl::InvalidArgumentError(absl::StrCat("--rank is ", config.rank, " in a group of ",
                                                   shape.num_ranks(), " ranks, from 0"));
  }

  if (config.device == "cuda") {
    RETURN_IF_ERROR(CheckCudaModel(model_config, shape));
    if (shape.num_ranks() > 1) {
      RETURN_IF_ERROR(GroupCommunicators::PrepareCuda(config.comm_host, config.comm_interface));
    }
  }
  ASSIGN_OR_RETURN(RankDevice device, MakeRankDevice(config));
  Worker worker(config, model_config, shape, checkpoint ? &*checkpoint : nullptr,
                std::move(device));
  ASSIGN_OR_RETURN(const KvBudget budget, worker.BudgetBlocks());
  ASSIGN_OR_RETURN(const OffloadBudget offload, worker.BudgetSlots());
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
                                  .kv_capacity_blocks = budget.capacity,
                                  .kv_limit_blocks = budget.limit,
                                  .host_slots = offload.host_slots,
                                  .disk_slots = offload.disk_slots,
                                  .hardware = worker.hardware()};
  auto opened = ControlStream::Open(config.control, registration, worker.progress(),
                                    absl::Now() + kDialTimeout, stop);
  if (stop.stop_requested()) return absl::OkStatus();
  RETURN_IF_ERROR(opened);
  const std::unique_ptr<ControlStream> stream = *std::move(opened);
  LOG(INFO) << "event=registered rank=" << config.rank << " model_digest=" << digest.ToString()
            << " kv_capacity_blocks=" << budget.capacity << " host_slots=" << offload.host_slots
            << " disk_slots=" << offload.disk_slots;

  StreamRendezvous rendezvous(*stream);
  const auto stop_worker = [&] {
    rendezvous.Abort();
    worker.Stop();
  };
  std::thread executor([&] { worker.Run(*stream, rendezvous, metrics_address); });
  absl::Status ended;
  {
    const std::stop_callback on_stop(stop, [&] { stream->Cancel(); });
    ended = stream->Run({.on_start = [&](const GroupPlace& place) { return worker.Push(place); },
                         .on_plan = [&](StepPlan plan) { return worker.Push(std::move(plan)); },
                         .on_rendezvous =
                             [&](std::string key, std::string value) {
                               return rendezvous.Receive(std::move(key), std::move(value));
                             },
                         .on_dump_stacks = &LogStacks,
                         .on_end = stop_worker});
  }
  executor.join();
  if (stop.stop_requested()) ended = absl::OkStatus();
  LOG(INFO) << "event=stream_ended rank=" << config.rank << " why=\"" << ended << "\"";
  return ended;
}

}  // namespace longhaul::worker::rank
