#include "worker/rank/pipeline_stage.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace longhaul::worker::rank {

PipelineStage::PipelineStage(std::unique_ptr<model::Qwen2> model, KvCache cache, StageLink link)
    : model_(std::move(model)), cache_(std::move(cache)), link_(std::move(link)) {
  CHECK((model_->range().layer_begin == 0) == (link_.stage() == 0) &&
        is_last() == (link_.stage() + 1 == link_.num_stages()))
      << "layers [" << model_->range().layer_begin << ", " << model_->range().layer_end
      << ") on stage " << link_.stage() << " of " << link_.num_stages();
}

bool PipelineStage::IsSame(const Resident& resident, const StageUnit& unit) const {
  if (!std::ranges::equal(resident.sequences, unit.sequences)) return false;
  int64_t rows = 0;
  for (size_t i = 0; i < unit.slices.size(); ++i) {
    if (resident.begins[i] != unit.slices[i].position_begin) return false;
    rows += static_cast<int64_t>(unit.slices[i].token_ids.size());
  }
  return rows == resident.activations.num_rows();
}

absl::StatusOr<PipelineStage::Resident> PipelineStage::Begin(const StageUnit& unit) {
  Resident resident;
  if (!unused_.empty()) {
    resident = std::move(unused_.back());
    unused_.pop_back();
  }
  resident.sequences.assign(unit.sequences.begin(), unit.sequences.end());
  resident.begins.clear();
  for (const model::ModelSlice& slice : unit.slices) {
    resident.begins.push_back(slice.position_begin);
  }
  RETURN_IF_ERROR(link_.Await(resident.sent));
  RETURN_IF_ERROR(model_->Begin(unit.slices, resident.activations));
  if (model_->range().layer_begin == 0) {
    RETURN_IF_ERROR(model_->Embed(resident.activations));
  } else {
    RETURN_IF_ERROR(link_.Receive(resident.activations.hidden()));
  }
  return resident;
}

absl::StatusOr<PipelineStage::Resident> PipelineStage::TakeCut(const StageUnit& unit,
                                                               int32_t layer) {
  const auto found = std::ranges::find_if(cut_, [&](const Resident& candidate) {
    return candidate.next_layer == layer && IsSame(candidate, unit);
  });
  if (found == cut_.end()) {
    return absl::InternalError(absl::StrCat("unit of sequence ", unit.sequences.front(),
                                            " at position ", unit.slices.front().position_begin,
                                            " continues at layer ", layer,
                                            ", but no unit waits there"));
  }
  Resident resident = std::move(*found);
  cut_.erase(found);
  return resident;
}

absl::Status PipelineStage::Run(const StageUnit& unit, const std::atomic<bool>& stop) {
  const model::WeightRange& range = model_->range();
  const int32_t first = std::max(unit.layer_begin, range.layer_begin);
  const int32_t last = std::min(unit.layer_end, range.layer_end);
  // Both sides of a border must transfer units in the same order, whatever runs between the parts
  // of a cut one: so here where the next stage receives, not where the last layer ran.
  const bool sends =
      !is_last() && unit.layer_begin <= range.layer_end && unit.layer_end > range.layer_end;
  if (first >= last && !sends) return absl::OkStatus();  // layers of other stages
  Resident resident;
  if (first == range.layer_begin) {
    ASSIGN_OR_RETURN(resident, Begin(unit));
  } else {
    ASSIGN_OR_RETURN(resident, TakeCut(unit, first));
  }
  const auto run_layers = [&]() -> absl::Status {
    for (int32_t layer = first; layer < last; ++layer) {
      if (stop.load(std::memory_order_relaxed)) return absl::CancelledError("rank stops");
      RETURN_IF_ERROR(
          model_->RunLayer(layer, cache_.Layer(layer - range.layer_begin), resident.activations))
          << "layer " << layer;
    }
    return absl::OkStatus();
  };
  if (first < last) {
    RETURN_IF_ERROR(model_->RunLayers(first, last, cache_.Layer(first - range.layer_begin),
                                      resident.activations, run_layers));
  }
  resident.next_layer = last;
  if (!sends && (!is_last() || last < range.layer_end)) {
    if (cut_.size() >= kMaxResident) {
      return absl::ResourceExhaustedError(
          absl::StrCat(cut_.size() + 1, " units are cut between layers, limit ", kMaxResident));
    }
    cut_.push_back(std::move(resident));
    return absl::OkStatus();
  }
  if (sends) {
    RETURN_IF_ERROR(link_.Send(resident.activations.hidden(), resident.sent));
  }
  unused_.push_back(std::exchange(completed_, std::move(resident)));
  return absl::OkStatus();
}

absl::StatusOr<TensorView> PipelineStage::Logits(std::span<const int64_t> rows) {
  for (const int64_t row : rows) {
    CHECK(row >= 0 && row < completed_.activations.num_rows()) << "row=" << row;
  }
  return model_->Logits(rows, completed_.activations);
}

absl::StatusOr<absl::Duration> PipelineStage::Finish() {
  RETURN_IF_ERROR(model_->Finish());
  return link_.TakeWaited();
}

void PipelineStage::Drop(SequenceId sequence) {
  const auto holds = [sequence](const Resident& resident) {
    return std::ranges::find(resident.sequences, sequence) != resident.sequences.end();
  };
  for (Resident& resident : cut_) {
    if (holds(resident)) unused_.push_back(std::move(resident));
  }
  std::erase_if(cut_, [&](const Resident& resident) {
    return resident.sequences.empty() || holds(resident);
  });
}

}  // namespace longhaul::worker::rank
