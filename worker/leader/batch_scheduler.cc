#include "worker/leader/batch_scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"

namespace longhaul::worker::leader {
namespace {

// Predictions are off by some 10%: a step that others wait for aims below its target.
constexpr double kAim = 0.9;

bool IsScored(const Sequence& s) { return s.request.sampling.prompt_logprobs.has_value(); }

}  // namespace

BatchScheduler::BatchScheduler(const SchedulerLimits& limits, const PrefixRule& prefix,
                               const StopRule& stop_rule)
    : limits_(limits),
      stop_rule_(stop_rule),
      planner_(kKvBlockTokens, limits.num_stages),
      pool_(limits, prefix) {
  // Else a full batch of decodes would leave prefill no room for one block, for ever.
  CHECK(limits.max_num_batched_tokens >= limits.max_num_seqs + kKvBlockTokens)
      << "max_num_batched_tokens=" << limits.max_num_batched_tokens
      << " max_num_seqs=" << limits.max_num_seqs;
  CHECK(limits.max_num_seqs > 0 && limits.max_plans_in_flight > 0 && limits.num_stages > 0 &&
        limits.num_layers >= limits.num_stages);
}

bool BatchScheduler::End(Sequence& sequence) {
  if (sequence.cut) cut_.reset();  // the only sequence of that unit
  const bool in_flight = sequence.plans_in_flight > 0;
  pool_.End(sequence);
  return !in_flight;
}

void BatchScheduler::GroupUp(const KvCapacity& capacity) {
  CHECK(in_flight_.empty() && !cut_);
  next_step_id_ = 1;
  pool_.GroupUp(capacity);
}

std::vector<Sequence*> BatchScheduler::GroupDown() {
  in_flight_.clear();
  cut_.reset();
  return pool_.GroupDown();
}

Slice BatchScheduler::MakeSlice(Sequence& s, int64_t count, StepPlan& plan, PlannedSlice& planned) {
  const int64_t begin = s.planned_tokens;
  const int64_t end = begin + count;
  if (!std::exchange(s.told, true)) {
    const int64_t cached_prompt = std::min(s.cached_tokens, s.prompt_tokens());
    plan.starts.push_back(
        {.sequence_id = s.id,
         .sampling = s.request.sampling,
         .prompt_tokens = static_cast<int32_t>(s.prompt_tokens()),
         .cached_prompt_ids = {s.request.prompt.begin(), s.request.prompt.begin() + cached_prompt},
         .replayed_output_ids = s.output,
         .cached_output_tokens = static_cast<int32_t>(s.cached_tokens - cached_prompt),
         .end_token_ids = stop_rule_.Banned(s.request),
         .min_tokens = s.request.stopping.min_tokens});
  }
  Slice slice = {.sequence_id = s.id, .begin = begin};
  slice.token_ids.reserve(static_cast<size_t>(count));
  for (int64_t position = begin; position < end; ++position) {
    slice.token_ids.push_back(s.token(position));
  }
  slice.sample = end == s.known_tokens() && s.request.stopping.max_tokens > 0;
  if (IsScored(s) && end < s.prompt_tokens()) slice.next_prompt_token = s.token(end);
  slice.first_table_entry = s.blocks_sent;
  const int32_t blocks_needed = BlocksFor(end);
  slice.new_block_ids.assign(s.blocks.begin() + s.blocks_sent, s.blocks.begin() + blocks_needed);
  planned = {.sequence = &s,
             .sequence_id = s.id,
             .begin = begin,
             .count = count,
             .sample = slice.sample,
             .repeated = std::clamp<int64_t>(s.most_processed - begin, 0, count)};
  if (IsScored(s)) {
    planned.prompt_logprobs = std::clamp<int64_t>(s.prompt_tokens() - 1 - begin, 0, count);
  }
  s.blocks_sent = blocks_needed;
  s.planned_tokens = end;
  s.sample_in_flight = slice.sample;
  return slice;
}

void BatchScheduler::Remember(const PlannedSlice& planned, bool prefill, double fraction,
                              PlannedStep& step) {
  pool_.Planned(*planned.sequence);
  step.has_prefill = step.has_prefill || prefill;
  step.has_prompt_logprobs = step.has_prompt_logprobs || planned.prompt_logprobs > 0;
  step.shape.Add(planned.begin, planned.count, fraction);
  step.slices.push_back(planned);
}

void BatchScheduler::AddWhole(Sequence& s, int64_t count, Draft& draft) {
  CHECK(pool_.Grow(s, s.planned_tokens + count)) << "sequence=" << s.id;
  const bool prefill = s.prefilling();
  draft.budget.Take(s.planned_tokens, count, prefill && IsScored(s));
  PlannedSlice planned;
  draft.plan.units.front().slices.push_back(MakeSlice(s, count, draft.plan, planned));
  Remember(planned, prefill, 1, draft.step);
}

double BatchScheduler::StepSeconds() const {
  const bool others_wait = pool_.running().size() > 1 || !pool_.waiting().empty();
  return others_wait ? std::min(kAim * limits_.step_target_seconds, limits_.max_step_seconds)
                     : limits_.max_step_seconds;
}

void BatchScheduler::AddDecodes(Draft& draft) {
  const std::vector<Sequence*> running = pool_.running();  // to preempt is to change it
  const auto decodes = std::count_if(running.begin(), running.end(),
                                     [](const Sequence* s) { return !s->prefilling(); });
  int64_t share = (decodes + limits_.num_stages - 1) / limits_.num_stages;
  for (Sequence* s : running) {
    if (share == 0 || draft.budget.tokens() == 0) return;
    if (!s->running || !s->decode_ready() || !pool_.Grow(*s, s->planned_tokens + 1)) continue;
    AddWhole(*s, 1, draft);
    --share;
  }
}

double BatchScheduler::FractionOf(int32_t layers) const {
  // With several stages, of the slowest one's time.
  return std::min(1.0, static_cast<double>(layers) * limits_.num_stages / limits_.num_layers);
}

int32_t BatchScheduler::LayersWithin(double fraction, int32_t begin) const {
  const int32_t rest = limits_.num_layers - begin;
  if (fraction >= 1) return rest;
  const auto layers =
      static_cast<int32_t>(std::max(fraction, 0.0) * limits_.num_layers / limits_.num_stages);
  return std::min(layers, rest);
}

void BatchScheduler::AddPart(CutUnit unit, int32_t layers, Draft& draft) {
  const int32_t end = unit.next_layer + layers;
  draft.plan.units.push_back({.unit_id = unit.unit_id,
                              .layer_begin = unit.next_layer,
                              .layer_end = end,
                              .slices = {unit.slice}});
  PlannedSlice planned = unit.planned;
  planned.completes = end == limits_.num_layers;
  if (!planned.completes) {
    planned.sample = false;
    planned.prompt_logprobs = planned.repeated = 0;
  }
  const double fraction = FractionOf(layers);
  draft.budget.TakeSeconds(fraction * draft.budget.Seconds(planned.begin, planned.count));
  Remember(planned, /*prefill=*/true, fraction, draft.step);
  unit.sequence->cut = !planned.completes;
  if (planned.completes) {
    cut_.reset();
    return;
  }
  unit.next_layer = end;
  // The ranks have its blocks now.
  unit.slice.first_table_entry += static_cast<int32_t>(unit.slice.new_block_ids.size());
  unit.slice.new_block_ids.clear();
  cut_ = std::move(unit);
}

void BatchScheduler::ContinueCut(bool due, Draft& draft) {
  const double whole = draft.budget.Seconds(cut_->planned.begin, cut_->planned.count);
  const double fraction = whole > 0 ? draft.budget.seconds() / whole : 1;
  const int32_t layers = std::max(LayersWithin(fraction, cut_->next_layer), due ? 1 : 0);
  if (layers > 0) AddPart(*std::exchange(cut_, std::nullopt), layers, draft);
}

void BatchScheduler::AddDue(Sequence& s, Draft& draft) {
  const int64_t most = std::min<int64_t>(kKvBlockTokens, draft.budget.TokensAtAnyTime(IsScored(s)));
  const int64_t count = planner_.NextChunk(s.planned_tokens, s.known_tokens(), most);
  if (count == 0) return;
  const double whole = draft.budget.Seconds(s.planned_tokens, count);
  const int32_t layers = std::max(LayersWithin(draft.budget.seconds() / whole, 0), 1);
  if (layers >= limits_.num_layers || cut_) return AddWhole(s, count, draft);
  CHECK(pool_.Grow(s, s.planned_tokens + count)) << "sequence=" << s.id;
  CutUnit unit = {.sequence = &s, .unit_id = next_unit_id_++};
  unit.slice = MakeSlice(s, count, draft.plan, unit.planned);
  AddPart(std::move(unit), layers, draft);
}

void BatchScheduler::AddPrefills(Draft& draft, const CostCoefficients& cost) {
  std::vector<Sequence*> in_line;
  std::copy_if(pool_.running().begin(), pool_.running().end(), std::back_inserter(in_line),
               [](const Sequence* s) { return s->cut || s->prefilling(); });
  if (in_line.empty()) return;
  Sequence& first = *in_line.front();

  std::vector<Sequence*> passing;
  std::copy_if(in_line.begin(), in_line.end(), std::back_inserter(passing),
               [&first](const Sequence* s) { return !s->cut && MayPass(*s, first); });
  std::stable_sort(passing.begin(), passing.end(),
                   [](const Sequence* a, const Sequence* b) { return RestOf(*a) < RestOf(*b); });
  StepBudget share = draft.budget.Half();
  for (Sequence* s : passing) {
    if (!pool_.Refresh(*s)) {
      std::erase(in_line, s);
      continue;
    }
    const int64_t begin = s->planned_tokens;
    int64_t tokens = share.TokensBehind(begin, IsScored(*s));
    if (s == passing.front()) {
      const int64_t due = std::min<int64_t>(kKvBlockTokens, share.TokensAtAnyTime(IsScored(*s)));
      tokens = std::max(tokens, due);
    }
    const int64_t count = planner_.NextChunk(begin, s->known_tokens(), tokens, cost);
    if (count == 0) continue;
    share.Take(begin, count, IsScored(*s));
    AddWhole(*s, count, draft);
    std::erase(in_line, s);
  }
  for (Sequence* s : in_line) {
    if (s->cut) {
      ContinueCut(s == &first, draft);
      continue;
    }
    if (!pool_.Refresh(*s)) continue;
    // Less than a block may be left; a shorter rest of another may still fit.
    const int64_t tokens = draft.budget.TokensBehind(s->planned_tokens, IsScored(*s));
    const int64_t count = planner_.NextChunk(s->planned_tokens, s->known_tokens(), tokens, cost);
    if (count > 0) {
      AddWhole(*s, count, draft);
    } else if (s == &first) {
      AddDue(*s, draft);
    }
  }
}

std::optional<StepPlan> BatchScheduler::Next(const CostCoefficients& cost) {
  if (!pool_.group_up() || static_cast<int32_t>(in_flight_.size()) >= limits_.max_plans_in_flight) {
    return std::nullopt;
  }
  Draft draft = {.plan = {.step_id = next_step_id_},
                 .step = {.step_id = next_step_id_},
                 .budget = StepBudget(cost, limits_.max_num_batched_tokens,
                                      kMaxPromptLogprobsPerStep, StepSeconds())};
  draft.plan.units.push_back(
      {.unit_id = next_unit_id_++, .layer_begin = 0, .layer_end = limits_.num_layers});
  AddDecodes(draft);
  if (cut_ && !cut_->sequence->cut) cut_.reset();  // it was preempted
  AddPrefills(draft, cost);
  if (draft.plan.units.front().slices.empty()) {
    draft.plan.units.erase(draft.plan.units.begin());
  }
  draft.plan.ends = pool_.TakeEnds();
  draft.plan.moves = pool_.TakeMoves(next_step_id_);
  if (draft.plan.units.empty() && draft.plan.ends.empty() && draft.plan.moves.empty()) {
    return std::nullopt;
  }
  draft.step.has_moves = !draft.plan.moves.empty();
  ++next_step_id_;
  in_flight_.push_back(std::move(draft.step));
  return std::move(draft.plan);
}

absl::StatusOr<PlannedStep> BatchScheduler::Retire(StepId step_id,
                                                   std::span<const int32_t> failed_moves) {
  if (in_flight_.empty() || in_flight_.front().step_id != step_id) {
    return absl::InvalidArgumentError(
        absl::StrCat("step ", step_id, " is done, but the oldest in flight is ",
                     in_flight_.empty() ? 0 : in_flight_.front().step_id));
  }
  PlannedStep step = std::move(in_flight_.front());
  in_flight_.pop_front();
  pool_.MovesDone(step_id, failed_moves);
  for (PlannedSlice& slice : step.slices) {
    Sequence& s = *slice.sequence;
    if (slice.completes) {
      pool_.Processed(s, slice.begin + slice.count);
      if (slice.sample) s.sample_in_flight = false;
    }
    if (s.ended) slice.sequence = nullptr;
    slice.freed = pool_.Retired(s);
  }
  return step;
}

}  // namespace longhaul::worker::leader
