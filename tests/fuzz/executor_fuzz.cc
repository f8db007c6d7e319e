// Step plans for a rank's executor, most of them sound, then one that is not: sound ones are
// executed and sample what they ask for; the other is refused or executed, and breaks nothing.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/logging.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/testing/model_runner.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"
#include "worker/rank/executor.h"

namespace longhaul::worker::rank {
namespace {

constexpr int32_t kLayers = 3;
constexpr int32_t kVocabulary = 300;
constexpr int32_t kBlocks = 6;
constexpr int32_t kSlots = 3;  // in memory, and on disk
constexpr int32_t kPromptTokens = 1000;
constexpr int kMaxPlans = 12;

std::unique_ptr<testing::ModelRunner> NewRunner() {
  static const testing::TempDir folder;
  static const bool written = [] {
    testing::TinyModel{}.Write(folder.path());
    return true;
  }();
  CHECK(written);
  const std::string disk_path = folder.path() + "/rank0.kv";
  std::filesystem::remove(disk_path);  // of the input before
  auto runner = testing::ModelRunner::Create({.model_dir = folder.path(),
                                              .threads = 1,
                                              .max_tokens = kBlocks * kKvBlockTokens,
                                              .host_slots = kSlots,
                                              .disk_slots = kSlots,
                                              .disk_path = disk_path});
  CHECK(runner.ok()) << runner.status();
  return *std::move(runner);
}

// What the plans so far made of a sequence.
struct Sequence {
  int64_t num_tokens = 0;
  int32_t num_blocks = 0;
  bool is_scored = false;    // its prompt's logprobs are asked for
  std::optional<Slice> cut;  // waits for its next layers
  int32_t cut_layer = 0;
};

// Plays the leader: makes plans that continue where the last one stopped.
class Planner {
 public:
  explicit Planner(fuzz::FuzzInput& input) : input_(input) {}

  StepPlan Next() {
    StepPlan plan{.step_id = ++last_step_};
    num_samples_ = num_scored_ = 0;
    const uint8_t parts = input_.Byte();
    if ((parts & 1) != 0) Start(plan);
    if ((parts & 2) != 0) Run(plan);
    if ((parts & 4) != 0) Run(plan);
    if ((parts & 8) != 0) End(plan);
    if ((parts & 16) != 0) Move(plan);
    if ((parts & 32) != 0) Move(plan);
    return plan;
  }

  size_t num_sequences() const { return sequences_.size(); }
  size_t num_samples() const { return num_samples_; }
  size_t num_scored() const { return num_scored_; }

 private:
  SequenceId AnyId() { return input_.Below(4); }

  void Start(StepPlan& plan) {
    const SequenceId id = AnyId();
    if (!sequences_.try_emplace(id).second) return;
    SequenceStart start{.sequence_id = id, .prompt_tokens = kPromptTokens};
    const uint8_t options = input_.Byte();
    SamplingParams& sampling = start.sampling;
    sampling.temperature = (options & 1) != 0 ? 0.0f : 1.0f;
    if ((options & 2) != 0) sampling.repetition_penalty = 1.5f;
    if ((options & 4) != 0) sampling.presence_penalty = -1.0f;
    if ((options & 8) != 0) sampling.top_logprobs = sampling.prompt_logprobs = 2;
    sequences_[id].is_scored = (options & 8) != 0;
    if ((options & 16) != 0) sampling.logit_bias = {{3, -100.0f}, {299, 5.0f}};
    if ((options & 32) != 0) start.end_token_ids = {7};
    if ((options & 64) != 0) start.replayed_output_ids = {1, 2, 299};
    if ((options & 128) != 0) sampling.top_k = 5;
    start.min_tokens = options & 32;
    plan.starts.push_back(std::move(start));
  }

  void Run(StepPlan& plan) {
    const auto found = sequences_.find(AnyId());
    if (found == sequences_.end()) return;
    const SequenceId id = found->first;
    Sequence& sequence = found->second;
    Unit unit{.unit_id = ++last_unit_, .layer_begin = sequence.cut_layer};
    unit.layer_end =
        unit.layer_begin + 1 +
        static_cast<int32_t>(input_.Below(static_cast<size_t>(kLayers - unit.layer_begin)));
    if (sequence.cut.has_value()) {
      unit.slices.push_back(*sequence.cut);
    } else {
      std::optional<Slice> slice = NextSlice(id, sequence);
      if (!slice.has_value()) return;
      unit.slices.push_back(*std::move(slice));
    }
    Slice& slice = unit.slices[0];
    if (unit.layer_end < kLayers) {
      sequence.cut = slice;
      sequence.cut_layer = unit.layer_end;
    } else {
      slice.sample = input_.Bool();
      num_samples_ += slice.sample ? 1 : 0;
      if (sequence.is_scored) {
        const int64_t end = std::min<int64_t>(sequence.num_tokens, kPromptTokens - 1);
        num_scored_ += static_cast<size_t>(std::max<int64_t>(0, end - slice.begin));
      }
      sequence.cut.reset();
      sequence.cut_layer = 0;
    }
    plan.units.push_back(std::move(unit));
  }

  // The next tokens, with blocks for them; nothing if there are none.
  std::optional<Slice> NextSlice(SequenceId id, Sequence& sequence) {
    Slice slice{.sequence_id = id, .begin = sequence.num_tokens};
    const size_t size = input_.Byte();
    const size_t count = size < 200 ? 1 + size % 16 : size + 50;  // some cross a block's end
    for (size_t i = 0; i < count; ++i) {
      slice.token_ids.push_back(static_cast<TokenId>((size + 37 * i) % kVocabulary));
    }
    const int64_t end = slice.begin + static_cast<int64_t>(count);
    const auto blocks = static_cast<int32_t>((end + kKvBlockTokens - 1) / kKvBlockTokens);
    if (blocks > kBlocks) return std::nullopt;
    // Blocks of several sequences may be the same: whose they are is the leader's business.
    slice.first_table_entry = sequence.num_blocks;
    for (; sequence.num_blocks < blocks; ++sequence.num_blocks) {
      slice.new_block_ids.push_back(
          static_cast<BlockId>((id + static_cast<SequenceId>(sequence.num_blocks)) % kBlocks));
    }
    sequence.num_tokens = end;
    if (sequence.is_scored && end < kPromptTokens) {
      slice.next_prompt_token = static_cast<TokenId>(size % kVocabulary);
    }
    return slice;
  }

  // From any tier to another; slots may be empty, and what comes to the device is finite.
  void Move(StepPlan& plan) {
    const size_t way = input_.Below(6);
    const auto from = static_cast<KvMove::Tier>(way % 3);
    const auto to = static_cast<KvMove::Tier>((way + 1 + way / 3) % 3);
    const auto index = [this](KvMove::Tier tier) {
      return static_cast<uint32_t>(input_.Below(tier == KvMove::Tier::kDevice ? kBlocks : kSlots));
    };
    const uint32_t from_index = index(from);
    plan.moves.push_back({from, from_index, to, index(to)});
  }

  void End(StepPlan& plan) {
    const SequenceId id = AnyId();
    if (sequences_.erase(id) != 0) plan.ends.push_back(id);
  }

  fuzz::FuzzInput& input_;
  StepId last_step_ = 0;
  uint64_t last_unit_ = 0;
  size_t num_samples_ = 0;
  size_t num_scored_ = 0;  // prompt tokens
  std::map<SequenceId, Sequence> sequences_;
};

// Changes one number of the plan, or copies one of its parts.
void Spoil(fuzz::FuzzInput& input, StepPlan& plan) {
  const size_t what = input.Below(22);
  const auto value = input.Value<int32_t>();
  if (what == 0) plan.step_id = static_cast<StepId>(value);
  if (what == 1) plan.ends.push_back(static_cast<SequenceId>(value));
  if (!plan.moves.empty()) {
    if (what == 19) plan.moves[0].from_index = static_cast<uint32_t>(value);
    if (what == 20) plan.moves[0].to_index = static_cast<uint32_t>(value);
    if (what == 21) plan.moves[0].to = plan.moves[0].from;
  }
  if (!plan.starts.empty()) {
    SequenceStart& start = plan.starts[0];
    if (what == 2) start.prompt_tokens = value;
    if (what == 3) start.cached_prompt_ids.push_back(value);
    if (what == 4) start.end_token_ids.push_back(value);
    if (what == 5) start.replayed_output_ids.push_back(value);
    if (what == 18) start.cached_output_tokens = value;
    if (what == 6) plan.starts.push_back(SequenceStart(start));
    if (what == 16) start.sampling.prompt_logprobs = value & 15;
    if (what == 7) start.sampling.logit_bias.emplace_back(value, 1.0f);
  }
  if (plan.units.empty()) return;
  Unit& unit = plan.units.back();
  Slice& slice = unit.slices[0];
  if (what == 8) unit.layer_begin = value;
  if (what == 9) unit.layer_end = value;
  if (what == 10) slice.begin = value;
  if (what == 11) slice.token_ids.push_back(value);
  if (what == 12) slice.new_block_ids.push_back(value);
  if (what == 13) slice.first_table_entry = value;
  if (what == 14) slice.sequence_id = static_cast<SequenceId>(value);
  if (what == 17) slice.next_prompt_token = value;
  if (what == 15) unit.slices.push_back(Slice(slice));
}

void Check(fuzz::FuzzInput& input) {
  const std::unique_ptr<testing::ModelRunner> runner = NewRunner();
  Executor& executor = runner->executor();
  const std::atomic<bool> stop = false;
  Planner planner(input);
  for (int i = 0; i < kMaxPlans && !input.empty(); ++i) {
    const bool is_sound = input.Below(16) != 15;
    StepPlan plan = planner.Next();
    if (!is_sound) {
      Spoil(input, plan);
      const auto result = executor.Execute(plan, stop);
      if (!result.ok()) CHECK(!absl::IsUnknown(result.status())) << result.status();
      return;  // the rank exits after an error, and the planner lost track otherwise
    }
    const auto result = executor.Execute(plan, stop);
    CHECK(result.ok()) << result.status();
    CHECK(result->step_id == plan.step_id && result->errors.empty());
    CHECK(result->failed_moves.size() <= plan.moves.size()) << result->failed_moves.size();
    CHECK(executor.num_sequences() == planner.num_sequences()) << executor.num_sequences();
    CHECK(result->sampled.size() == planner.num_samples()) << result->sampled.size();
    size_t num_scored = 0;
    for (const SequencePromptLogprobs& part : result->prompt_logprobs) {
      num_scored += part.tokens.size();
      for (const GeneratedToken& token : part.tokens) CHECK(token.logprob <= 0.0f) << token.token;
    }
    CHECK(num_scored == planner.num_scored()) << num_scored << " of " << planner.num_scored();
    for (const SampledToken& sampled : result->sampled) {
      CHECK(sampled.token.token >= 0 && sampled.token.token < kVocabulary) << sampled.token.token;
    }
  }
}

}  // namespace
}  // namespace longhaul::worker::rank

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longhaul::fuzz::FuzzInput input(data, std::min<size_t>(size, 128));
  longhaul::worker::rank::Check(input);
  return 0;
}
