#include "worker/rank/sampler.h"

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace longhaul::worker::rank {

Sampler::Sampler(int32_t vocab_size, backend::Backend& backend)
    : vocab_size_(vocab_size), backend_(backend) {}

void Sampler::Start(const SequenceStart& start) {
  State state;
  state.params = start.sampling;
  state.end_token_ids = start.end_token_ids;
  state.min_tokens = static_cast<uint64_t>(start.min_tokens);
  const size_t vocab_size = static_cast<size_t>(vocab_size_);
  if (start.sampling.repetition_penalty != 1.0f) state.seen.resize((vocab_size + 63) / 64);
  if (start.sampling.presence_penalty != 0.0f || start.sampling.frequency_penalty != 0.0f) {
    state.output_counts.resize(vocab_size);
  }
  MarkSeen(state, start.cached_prompt_ids);
  for (const TokenId id : start.replayed_output_ids) AddOutput(state, id);
  const bool is_new = states_.emplace(start.sequence_id, std::move(state)).second;
  CHECK(is_new) << "sequence=" << start.sequence_id << " started twice";
}

void Sampler::See(SequenceId sequence, std::span<const TokenId> ids) {
  const auto found = states_.find(sequence);
  CHECK(found != states_.end()) << "sequence=" << sequence;
  MarkSeen(found->second, ids);
}

void Sampler::End(SequenceId sequence) { states_.erase(sequence); }

void Sampler::MarkSeen(State& state, std::span<const TokenId> ids) {
  if (state.seen.empty()) return;
  for (const TokenId id : ids) {
    state.seen[static_cast<size_t>(id) / 64] |= uint64_t{1} << (id % 64);
  }
}

void Sampler::AddOutput(State& state, TokenId id) {
  ++state.output_tokens;
  MarkSeen(state, {&id, 1});
  if (!state.output_counts.empty()) ++state.output_counts[static_cast<size_t>(id)];
}

absl::Status Sampler::Sample(std::span<const Row> rows, TensorView logits, StepResult& result) {
  CHECK(logits.rows == static_cast<int64_t>(rows.size()) && logits.cols == vocab_size_)
      << "rows=" << rows.size() << " logits=" << logits.rows << "x" << logits.cols;
  if (observer_) {
    RETURN_IF_ERROR(Observe(rows, logits));
  }
  std::vector<backend::SampleRow> samples;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto found = states_.find(rows[i].sequence);
    CHECK(found != states_.end()) << "sequence=" << rows[i].sequence;
    const State& state = found->second;
    std::span<const TokenId> banned;
    if (state.output_tokens < state.min_tokens) banned = state.end_token_ids;
    samples.push_back({.logits = logits.Rows(static_cast<int64_t>(i), 1),
                       .params = &state.params,
                       .seen = state.seen,
                       .output_counts = state.output_counts,
                       .banned = banned,
                       .output_index = state.output_tokens});
  }
  std::vector<absl::StatusOr<GeneratedToken>> tokens = backend_.Sample(samples);
  for (size_t i = 0; i < rows.size(); ++i) {
    const SequenceId sequence = rows[i].sequence;
    if (!tokens[i].ok()) {
      result.errors.push_back({sequence, std::string(tokens[i].status().message())});
      continue;
    }
    AddOutput(states_.find(sequence)->second, tokens[i]->token);
    result.sampled.push_back({sequence, *std::move(tokens[i])});
  }
  return absl::OkStatus();
}

absl::Status Sampler::Observe(std::span<const Row> rows, TensorView logits) {
  std::vector<float> host(static_cast<size_t>(logits.cols));
  for (size_t i = 0; i < rows.size(); ++i) {
    RETURN_IF_ERROR(backend_.CopyToHost(logits.Rows(static_cast<int64_t>(i), 1), host.data()));
    observer_(rows[i].sequence, rows[i].position, host);
  }
  return absl::OkStatus();
}

}  // namespace longhaul::worker::rank
