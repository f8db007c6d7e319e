#include "worker/leader/batch_scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace longhaul::worker::leader {
namespace {

bool Before(const Sequence* a, const Sequence* b) {
  if (a->request.priority != b->request.priority) return a->request.priority > b->request.priority;
  return a->order < b->order;
}

bool IsScored(const Sequence& s) { return s.request.sampling.prompt_logprobs.has_value(); }

int64_t RestOf(const Sequence& s) { return s.prompt_tokens() - s.planned_tokens; }

// Whether a prefill may have a part of the steps of the first in line.
bool MayPass(const Sequence& s, const Sequence& first) {
  return s.request.priority == first.request.priority && 2 * RestOf(s) < RestOf(first);
}

void InsertInOrder(std::vector<Sequence*>& line, Sequence* sequence) {
  line.insert(std::upper_bound(line.begin(), line.end(), sequence, Before), sequence);
}

}  // namespace

BatchScheduler::BatchScheduler(const SchedulerLimits& limits, const StopRule& stop_rule)
    : limits_(limits), stop_rule_(stop_rule), planner_(kKvBlockTokens) {
  // Else a full batch of decodes would leave prefill no room for one block, for ever.
  CHECK(limits.max_num_batched_tokens >= limits.max_num_seqs + kKvBlockTokens)
      << "max_num_batched_tokens=" << limits.max_num_batched_tokens
      << " max_num_seqs=" << limits.max_num_seqs;
  CHECK(limits.max_num_seqs > 0 && limits.max_plans_in_flight > 0 && limits.num_layers > 0);
}

int32_t BatchScheduler::BlocksFor(int64_t tokens) {
  return static_cast<int32_t>((tokens + kKvBlockTokens - 1) / kKvBlockTokens);
}

int32_t BatchScheduler::ReservationOf(const Sequence& sequence) const {
  return BlocksFor(sequence.prompt_tokens() + sequence.request.stopping.max_tokens);
}

absl::Status BatchScheduler::CheckFits(int64_t prompt_tokens, int64_t max_tokens) const {
  if (prompt_tokens + max_tokens > limits_.max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt has ", prompt_tokens, " tokens and max_tokens is ", max_tokens, ", together ",
        prompt_tokens + max_tokens, "; limit ", limits_.max_model_len, " (--max-model-len)"));
  }
  // What the last incarnation held the next one holds too; before the first nothing is known.
  if (known_blocks_ > 0 && BlocksFor(prompt_tokens + max_tokens) > known_blocks_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt and max_tokens need ", BlocksFor(prompt_tokens + max_tokens), " KV blocks of ",
        kKvBlockTokens, " tokens; the group has ", known_blocks_, " (--kv-cache-gib)"));
  }
  return absl::OkStatus();
}

bool BatchScheduler::CanStart(int32_t num_blocks) const {
  return group_up_ && static_cast<int32_t>(running_.size()) < limits_.max_num_seqs &&
         num_blocks <= num_free_blocks();
}

absl::Status BatchScheduler::CheckRoom(int64_t prompt_tokens, int64_t max_tokens) const {
  if (waiting_.empty() && CanStart(BlocksFor(prompt_tokens + max_tokens))) return absl::OkStatus();
  if (static_cast<int32_t>(waiting_.size()) >= limits_.max_waiting) {
    return absl::ResourceExhaustedError(
        absl::StrCat(waiting_.size(), " requests wait, limit ", limits_.max_waiting));
  }
  if (prompt_tokens < limits_.long_prompt_tokens) return absl::OkStatus();
  const auto num_long = std::count_if(waiting_.begin(), waiting_.end(), [this](const Sequence* s) {
    return s->prompt_tokens() >= limits_.long_prompt_tokens;
  });
  if (num_long >= limits_.max_waiting_long) {
    return absl::ResourceExhaustedError(
        absl::StrCat(num_long, " prompts of ", limits_.long_prompt_tokens,
                     " tokens or more wait, limit ", limits_.max_waiting_long));
  }
  return absl::OkStatus();
}

Sequence& BatchScheduler::Enqueue(Request request) {
  auto owned = std::make_unique<Sequence>(std::move(request));
  Sequence& sequence = *owned;
  sequence.order = next_order_++;
  sequences_.emplace(sequence.order, std::move(owned));
  InsertInOrder(waiting_, &sequence);
  StartWaiting();
  return sequence;
}

void BatchScheduler::End(Sequence& sequence) {
  CHECK(!sequence.ended) << "sequence=" << sequence.id;
  sequence.ended = true;
  std::erase(waiting_, &sequence);
  std::erase(running_, &sequence);
  // The ranks run plans in order, so the end may travel behind plans that still name the sequence.
  if (sequence.planned_tokens > 0) unsent_ends_.push_back(sequence.id);
  if (sequence.plans_in_flight == 0) Free(sequence);
}

void BatchScheduler::Free(Sequence& sequence) {
  blocks_.Release(sequence.blocks);
  sequences_.erase(sequence.order);
  StartWaiting();
}

void BatchScheduler::GroupUp(int32_t num_blocks) {
  CHECK(!group_up_ && in_flight_.empty() && running_.empty());
  blocks_ = BlockAllocator(num_blocks);
  known_blocks_ = num_blocks;
  group_up_ = true;
  next_step_id_ = 1;
  next_sequence_id_ = 1;
  StartWaiting();
}

std::vector<Sequence*> BatchScheduler::GroupDown() {
  group_up_ = false;
  in_flight_.clear();
  unsent_ends_.clear();
  blocks_ = BlockAllocator(0);
  std::erase_if(sequences_, [](const auto& entry) { return entry.second->ended; });
  std::vector<Sequence*> lost = std::exchange(running_, {});
  for (Sequence* s : lost) {
    s->planned_tokens = s->processed_tokens = 0;
    s->blocks.clear();
    s->blocks_sent = s->plans_in_flight = 0;
    s->sample_in_flight = s->running = s->passed_head = false;
    InsertInOrder(waiting_, s);
  }
  return lost;
}

void BatchScheduler::Start(Sequence& sequence) {
  sequence.blocks = blocks_.Allocate(ReservationOf(sequence)).value();
  sequence.id = next_sequence_id_++;
  sequence.running = true;
  std::erase(waiting_, &sequence);
  InsertInOrder(running_, &sequence);
}

void BatchScheduler::StartWaiting() {
  while (!waiting_.empty() && CanStart(ReservationOf(*waiting_.front()))) {
    Sequence& head = *waiting_.front();
    head.passed_head = false;
    Start(head);
  }
  if (waiting_.empty()) return;
  const Sequence& head = *waiting_.front();
  for (Sequence* s : std::vector<Sequence*>(waiting_.begin() + 1, waiting_.end())) {
    int32_t lent = 0;  // blocks that come back to the head from those who passed it
    for (const Sequence* running : running_) {
      if (running->passed_head) lent += ReservationOf(*running);
    }
    if (num_free_blocks() + lent >= ReservationOf(head)) return;
    if (!MayPass(*s, head) || !CanStart(ReservationOf(*s))) continue;
    s->passed_head = true;
    Start(*s);
  }
}

Slice BatchScheduler::MakeSlice(Sequence& s, int64_t count) {
  Slice slice = {.sequence_id = s.id, .begin = s.planned_tokens};
  const int64_t end = s.planned_tokens + count;
  if (s.prefilling()) {
    slice.token_ids.assign(s.request.prompt.begin() + s.planned_tokens,
                           s.request.prompt.begin() + end);
    slice.sample = end == s.prompt_tokens() && s.request.stopping.max_tokens > 0;
    if (s.request.sampling.prompt_logprobs.has_value() && end < s.prompt_tokens()) {
      slice.next_prompt_token = s.request.prompt[static_cast<size_t>(end)];
    }
  } else {
    slice.token_ids = {s.output.back()};
    slice.sample = true;
  }
  slice.first_table_entry = s.blocks_sent;
  const int32_t blocks_needed = BlocksFor(end);
  slice.new_block_ids.assign(s.blocks.begin() + s.blocks_sent, s.blocks.begin() + blocks_needed);
  s.blocks_sent = blocks_needed;
  return slice;
}

void BatchScheduler::AddSlice(Sequence& s, int64_t count, StepPlan& plan, PlannedStep& step) {
  if (s.planned_tokens == 0) {
    plan.starts.push_back({.sequence_id = s.id,
                           .sampling = s.request.sampling,
                           .prompt_tokens = static_cast<int32_t>(s.prompt_tokens()),
                           // Whoever fills this from a prefix cache: a prompt whose logprobs are
                           // asked for takes nothing from it, each of its rows must run.
                           .cached_prompt_ids = {},
                           .replayed_output_ids = {},
                           .end_token_ids = stop_rule_.Banned(s.request),
                           .min_tokens = s.request.stopping.min_tokens});
  }
  PlannedSlice planned = {
      .sequence = &s, .sequence_id = s.id, .begin = s.planned_tokens, .count = count};
  if (s.prefilling() && s.request.sampling.prompt_logprobs.has_value()) {
    planned.prompt_logprobs = std::min(count, s.prompt_tokens() - 1 - s.planned_tokens);
  }
  step.has_prefill = step.has_prefill || s.prefilling();
  step.has_prompt_logprobs = step.has_prompt_logprobs || planned.prompt_logprobs > 0;
  Slice slice = MakeSlice(s, count);
  planned.sample = slice.sample;
  step.shape.Add(slice.begin, count);
  step.slices.push_back(planned);
  s.planned_tokens += count;
  s.sample_in_flight = slice.sample;
  ++s.plans_in_flight;
  plan.units.front().slices.push_back(std::move(slice));
}

double BatchScheduler::StepSeconds() const {
  const bool others_wait = running_.size() > 1 || !waiting_.empty();
  return others_wait ? std::min(limits_.step_target_seconds, limits_.max_step_seconds)
                     : limits_.max_step_seconds;
}

void BatchScheduler::AddDecodes(StepBudget& budget, StepPlan& plan, PlannedStep& step) {
  for (Sequence* s : running_) {
    if (!s->decode_ready() || budget.tokens() == 0) continue;
    budget.Take(s->planned_tokens, 1, /*scored=*/false);
    AddSlice(*s, 1, plan, step);
  }
}

int64_t BatchScheduler::NextChunk(const Sequence& s, const StepBudget& budget, bool due) const {
  int64_t tokens = budget.TokensBehind(s.planned_tokens, IsScored(s));
  if (due) {
    tokens = std::max<int64_t>(
        tokens, std::min<int64_t>(kKvBlockTokens, budget.TokensAtAnyTime(IsScored(s))));
  }
  return planner_.NextChunk(s.planned_tokens, s.prompt_tokens(), tokens);
}

void BatchScheduler::AddPrefills(StepBudget& budget, StepPlan& plan, PlannedStep& step) {
  std::vector<Sequence*> in_line;
  std::copy_if(running_.begin(), running_.end(), std::back_inserter(in_line),
               [](const Sequence* s) { return s->prefilling(); });
  if (in_line.empty()) return;
  Sequence& first = *in_line.front();
  const auto add = [&](Sequence& s, int64_t count) {
    budget.Take(s.planned_tokens, count, IsScored(s));
    AddSlice(s, count, plan, step);
    std::erase(in_line, &s);
  };

  std::vector<Sequence*> passing;
  std::copy_if(in_line.begin(), in_line.end(), std::back_inserter(passing),
               [&first](const Sequence* s) { return MayPass(*s, first); });
  std::stable_sort(passing.begin(), passing.end(),
                   [](const Sequence* a, const Sequence* b) { return RestOf(*a) < RestOf(*b); });
  StepBudget share = budget.Half();
  for (Sequence* s : passing) {
    const int64_t begin = s->planned_tokens;
    const int64_t count = NextChunk(*s, share, /*due=*/s == passing.front());
    if (count == 0) continue;
    share.Take(begin, count, IsScored(*s));
    add(*s, count);
  }
  for (Sequence* s : std::vector<Sequence*>(in_line)) {
    const int64_t count = NextChunk(*s, budget, /*due=*/s == &first);
    if (count > 0) add(*s, count);  // else less than a block is left: a shorter rest may still fit
  }
}

std::optional<StepPlan> BatchScheduler::Next(const CostCoefficients& cost) {
  if (!group_up_ || static_cast<int32_t>(in_flight_.size()) >= limits_.max_plans_in_flight) {
    return std::nullopt;
  }
  StepPlan plan = {.step_id = next_step_id_, .starts = {}, .units = {}, .ends = {}};
  plan.units.push_back(
      {.unit_id = next_unit_id_, .layer_begin = 0, .layer_end = limits_.num_layers, .slices = {}});
  PlannedStep step = {.step_id = next_step_id_, .slices = {}, .shape = {}};
  StepBudget budget(cost, limits_.max_num_batched_tokens, kMaxPromptLogprobsPerStep, StepSeconds());
  AddDecodes(budget, plan, step);
  AddPrefills(budget, plan, step);
  if (step.slices.empty()) plan.units.clear();
  plan.ends = std::exchange(unsent_ends_, {});
  if (plan.units.empty() && plan.ends.empty()) return std::nullopt;
  ++next_step_id_;
  ++next_unit_id_;
  in_flight_.push_back(std::move(step));
  return plan;
}

absl::StatusOr<PlannedStep> BatchScheduler::Retire(StepId step_id) {
  if (in_flight_.empty() || in_flight_.front().step_id != step_id) {
    return absl::InvalidArgumentError(
        absl::StrCat("step ", step_id, " is done, but the oldest in flight is ",
                     in_flight_.empty() ? 0 : in_flight_.front().step_id));
  }
  PlannedStep step = std::move(in_flight_.front());
  in_flight_.pop_front();
  for (PlannedSlice& slice : step.slices) {
    Sequence& s = *slice.sequence;
    --s.plans_in_flight;
    s.processed_tokens = slice.begin + slice.count;
    if (slice.sample) s.sample_in_flight = false;
    if (!s.ended) continue;
    slice.sequence = nullptr;
    if (s.plans_in_flight == 0) Free(s);
  }
  return step;
}

}  // namespace longhaul::worker::leader
