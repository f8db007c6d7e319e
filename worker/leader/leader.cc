#include "worker/leader/leader.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/model_config.h"
#include "common/prefix_hash.h"
#include "common/sip_hash.h"
#include "common/status_macros.h"
#include "worker/model/model_digest.h"

namespace longhaul::worker::leader {
namespace {

// For the last events to reach the routers.
constexpr absl::Duration kStreamGrace = absl::Seconds(1);

int32_t MaxModelLen(const LeaderConfig& config, const LeaderModel& model) {
  return config.max_model_len > 0 ? config.max_model_len : model.max_position_embeddings;
}

GroupOptions GroupOptionsFor(GroupOptions options, const LeaderModel& model,
                             const std::string& secret, const Clock& clock) {
  options.shape = model.shape;
  options.model_digest = model.digest;
  options.secret = secret;
  // Later than any that an earlier leader at this address used.
  options.first_incarnation = static_cast<uint64_t>(absl::ToUnixMicros(clock.Now()));
  return options;
}

EngineOptions EngineOptionsFor(const LeaderConfig& config, const LeaderModel& model) {
  const int32_t stages = config.pipeline_parallel_size;
  return {.scheduler = {.max_model_len = MaxModelLen(config, model),
                        .max_num_batched_tokens = config.max_num_batched_tokens,
                        .max_num_seqs = config.max_num_seqs,
                        .max_waiting = config.max_waiting_requests,
                        .max_waiting_long = 1,
                        .long_prompt_tokens = config.long_prompt_tokens,
                        .num_layers = model.num_layers,
                        .num_stages = stages,
                        // ADR 2: one more plan than stages is on its way.
                        .max_plans_in_flight = stages == 1 ? 1 : stages + 1,
                        .prefix_caching = config.enable_prefix_caching,
                        .step_target_seconds = config.step_target_ms / 1e3,
                        .max_step_seconds = config.max_step_ms / 1e3},
          .prefix = model.prefix,
          .end_tokens = model.end_tokens,
          .vocab_size = model.vocab_size,
          .warm_up_seconds = config.warm_up_seconds};
}

std::string ServedName(const LeaderConfig& config) {
  if (!config.served_model_name.empty()) return config.served_model_name;
  std::error_code error;
  const std::filesystem::path path = std::filesystem::canonical(config.model, error);
  return error ? config.model : path.filename().string();
}

}  // namespace

absl::StatusOr<LeaderModel> LeaderModel::Load(const LeaderConfig& config) {
  ASSIGN_OR_RETURN(const ModelConfig model, ModelConfig::Load(config.model));
  ASSIGN_OR_RETURN(const GroupShape shape,
                   GroupShape::Make({.tensor_parallel_size = config.tensor_parallel_size,
                                     .pipeline_parallel_size = config.pipeline_parallel_size,
                                     .layer_split = config.layer_split},
                                    model));
  ASSIGN_OR_RETURN(const GenerationDefaults defaults, GenerationDefaults::Load(config.model));
  ASSIGN_OR_RETURN(const Digest digest, config.load_format == "dummy"
                                            ? model::DummyModelDigest(config.model)
                                            : model::ModelDigest(config.model));
  PrefixIdentity identity = {.model = digest,
                             .kv_dtype = config.kv_cache_dtype == "bf16" ? "bf16" : "fp32",
                             .attention_mode = "rope",
                             .attention_settings = {},
                             .temperature = config.attention_temperature};
  PrefixRule prefix;
  if (model.dual_chunk && config.dual_chunk_attention == "on") {
    if (config.attention_temperature == "request") {
      prefix.original_max_position_embeddings = model.dual_chunk->original_max_position_embeddings;
    }
    identity.attention_mode = "dca";
    identity.attention_settings =
        SipHash128({}, absl::StrCat(model.dual_chunk->chunk_size, ",", model.dual_chunk->local_size,
                                    ",", model.dual_chunk->original_max_position_embeddings));
  }
  prefix.root = PrefixRoot(identity);
  std::vector<int32_t> stage_layers;
  for (int32_t rank = 0; rank < shape.num_ranks(); rank += shape.tensor_parallel_size()) {
    const GroupShape::Layers layers = shape.LayersOf(rank);
    stage_layers.push_back(layers.end - layers.begin);
  }
  return LeaderModel{.num_layers = model.num_layers,
                     .shape = shape,
                     .vocab_size = model.vocab_size,
                     .max_position_embeddings = model.max_position_embeddings,
                     .end_tokens = defaults.eos_token_ids,
                     .digest = digest,
                     .prefix = prefix,
                     .cost_key = {.model = digest,
                                  .tensor_parallel_size = shape.tensor_parallel_size(),
                                  .stage_layers = std::move(stage_layers),
                                  .kv_dtype = identity.kv_dtype,
                                  .attention = identity.attention_mode}};
}

Leader::Leader(const LeaderConfig& config, const LeaderModel& model, const std::string& secret,
               GroupOptions tuning, RankLauncher& launcher, const Clock& clock)
    : config_(config),
      model_(model),
      clock_(clock),
      group_(GroupOptionsFor(std::move(tuning), model, secret, clock), launcher, clock,
             [this](absl::Status status) {
               // Capacity for this and a request to stop: cannot be full.
               CHECK(first_start_.Push(std::move(status)).ok());
             }) {}

Leader::~Leader() { Stop(); }

absl::Status Leader::CheckConfig() const {
  if (config_.max_num_batched_tokens < config_.max_num_seqs + kKvBlockTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "max-num-batched-tokens is ", config_.max_num_batched_tokens, ", needed is max-num-seqs ",
        config_.max_num_seqs, " + ", kKvBlockTokens, " = ", config_.max_num_seqs + kKvBlockTokens));
  }
  if (config_.max_model_len > model_.max_position_embeddings) {
    return absl::InvalidArgumentError(
        absl::StrCat("max-model-len is ", config_.max_model_len, ", the model's limit is ",
                     model_.max_position_embeddings, " (max_position_embeddings)"));
  }
  return absl::OkStatus();
}

absl::Status Leader::Start(const std::stop_token& stop) {
  RETURN_IF_ERROR(CheckConfig());
  EngineOptions engine_options = EngineOptionsFor(config_, model_);
  if (!config_.cost_model_dir.empty()) {
    const CostStore store(config_.cost_model_dir, model_.cost_key);
    engine_options.saved_costs = store.Load();
    cost_keeper_ = std::make_unique<CostKeeper>(store);
    engine_options.keep_cost = [this](const SavedCost& cost) { cost_keeper_->Keep(cost); };
  }
  engine_ = std::make_unique<Engine>(engine_options, group_, requests_, board_, metrics_, clock_);
  ASSIGN_OR_RETURN(control_, ControlServer::Start(
                                 config_.control_listen,
                                 [this](const std::shared_ptr<RankLink>& link, RankEvent event) {
                                   group_.OnRankEvent(link, std::move(event));
                                 }));
  LOG(INFO) << "event=control_listening address=" << control_->address();
  group_.Start(control_->address(), *engine_);
  {
    const std::stop_callback on_stop(stop, [this] {
      CHECK(first_start_.Push(absl::CancelledError("stopped while the ranks started")).ok());
    });
    RETURN_IF_ERROR(*first_start_.Pop(absl::InfiniteFuture()));
  }
  ASSIGN_OR_RETURN(const ServedModel served, DescribeModel());
  ASSIGN_OR_RETURN(
      service_, WorkerService::Start(config_.listen, served, *engine_, requests_, board_, clock_));
  LOG(INFO) << "event=serving address=" << service_->address() << " model=" << served.name
            << " model_digest=" << served.digest.ToString()
            << " max_model_len=" << served.max_model_len << " kv_blocks=" << served.kv_blocks;
  return absl::OkStatus();
}

absl::StatusOr<ServedModel> Leader::DescribeModel() const {
  const int32_t kv_blocks = group_.kv_blocks();
  const int64_t kv_tokens = int64_t{kv_blocks} * kKvBlockTokens;
  if (config_.max_model_len > kv_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("max-model-len is ", config_.max_model_len, ", the KV cache holds ", kv_tokens,
                     " tokens (--kv-cache-gib ", config_.kv_cache_gib,
                     "): raise --kv-cache-gib or lower --max-model-len"));
  }
  return ServedModel{.name = ServedName(config_),
                     .digest = model_.digest,
                     .prefix_root = model_.prefix.root,
                     .prefix_root_max_tokens = model_.prefix.original_max_position_embeddings,
                     .vocab_size = model_.vocab_size,
                     .max_model_len = static_cast<int32_t>(
                         std::min<int64_t>(MaxModelLen(config_, model_), kv_tokens)),
                     .kv_blocks = kv_blocks,
                     .max_waiting_long = 1,
                     .long_prompt_tokens = config_.long_prompt_tokens,
                     .max_prompt_logprobs_tokens = config_.max_prompt_logprobs_tokens,
                     .tensor_parallel_size = model_.shape.tensor_parallel_size(),
                     .pipeline_parallel_size = model_.shape.pipeline_parallel_size()};
}

void Leader::Stop() {
  // First what makes events, then what carries them, then the ranks, whose listener lives on.
  if (engine_ != nullptr) engine_->Stop();
  if (cost_keeper_ != nullptr) cost_keeper_->Stop();
  if (service_ != nullptr) service_->Shutdown(kStreamGrace);
  group_.Stop();
}

}  // namespace longhaul::worker::leader
