#include "worker/backend/packed_rows.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "common/logging.h"

namespace longhaul::worker::backend {
namespace {

using kernels::kPrefillTileKeys;

constexpr int64_t kAlignment = 256;

}  // namespace

void PackedRows::Pack(const RotaryRule& rule, const UnitRows& rows) {
  ids_.assign(rows.ids.begin(), rows.ids.end());
  query_scale_.assign(rows.query_scale.begin(), rows.query_scale.end());
  positions_.clear();
  slots_.clear();
  num_empty_.clear();
  block_tables_.clear();
  prefills_.clear();
  decodes_.clear();
  int64_t last_position = 0;
  for (const SequenceRows& sequence : rows.sequences) {
    Add(sequence);
    last_position = std::max(last_position, sequence.position_begin + sequence.num_rows - 1);
  }
  CHECK(rows.query_scale.size() == positions_.size() &&
        (ids_.empty() || ids_.size() == positions_.size()))
      << "rows=" << positions_.size() << " scales=" << rows.query_scale.size()
      << " ids=" << ids_.size();
  has_succ_ = rule.chunk_len > 0 && last_position >= rule.chunk_len;
  has_inter_ = rule.chunk_len > 0 && last_position >= 2 * rule.chunk_len;
  min_id_ = ids_.empty() ? 0 : *std::ranges::min_element(ids_);
  max_id_ = ids_.empty() ? -1 : *std::ranges::max_element(ids_);
  tiles_ = kernels::PlanPrefill(prefills_);
  decode_ = kernels::PlanDecode(decodes_);
  if (!decode_.splits.empty()) decode_.splits.resize(std::bit_ceil(decode_.splits.size()));
  Place();
}

void PackedRows::Add(const SequenceRows& sequence) {
  const int64_t begin = sequence.position_begin;
  const int64_t end = begin + sequence.num_rows;
  CHECK(sequence.row_begin == num_rows() && sequence.num_rows > 0 && begin >= 0 &&
        end <= static_cast<int64_t>(sequence.block_table.size()) * kKvBlockTokens)
      << "rows=[" << sequence.row_begin << ", +" << sequence.num_rows << ") positions=[" << begin
      << ", " << end << ") blocks=" << sequence.block_table.size();
  for (int64_t position = begin; position < end; ++position) {
    const int64_t block = sequence.block_table[static_cast<size_t>(position / kKvBlockTokens)];
    positions_.push_back(position);
    slots_.push_back(block * kKvBlockTokens + position % kKvBlockTokens);
    num_empty_.push_back(0);
  }
  // The tail of the last tile, by who writes the tile's first token: it stays zero after that.
  const int64_t in_tile = (end - 1) % kPrefillTileKeys;
  if (end - 1 - in_tile >= begin) {
    num_empty_.back() = static_cast<int32_t>(kPrefillTileKeys - 1 - in_tile);
  }
  (sequence.num_rows > 1 ? prefills_ : decodes_)
      .push_back({.row_begin = sequence.row_begin,
                  .num_rows = sequence.num_rows,
                  .position_begin = begin,
                  .table_begin = static_cast<int64_t>(block_tables_.size())});
  block_tables_.insert(block_tables_.end(), sequence.block_table.begin(),
                       sequence.block_table.end());
}

template <typename Rows, typename Visit>
void PackedRows::VisitArrays(Rows& rows, Visit visit) {
  visit(rows.arrays_.ids, rows.ids_);
  visit(rows.arrays_.query_scale, rows.query_scale_);
  visit(rows.arrays_.positions, rows.positions_);
  visit(rows.arrays_.slots, rows.slots_);
  visit(rows.arrays_.num_empty, rows.num_empty_);
  visit(rows.arrays_.block_tables, rows.block_tables_);
  visit(rows.arrays_.tiles, rows.tiles_);
  visit(rows.arrays_.splits, rows.decode_.splits);
  visit(rows.arrays_.decode_rows, rows.decode_.rows);
}

void PackedRows::Place() {
  bytes_ = 0;
  VisitArrays(*this, [this](Array& array, const auto& values) {
    array = {.offset = bytes_, .count = static_cast<int64_t>(values.size())};
    if (values.empty()) return;
    const auto room = static_cast<int64_t>(std::bit_ceil(values.size()) * sizeof(values[0]));
    bytes_ += (room + kAlignment - 1) / kAlignment * kAlignment;
  });
}

void PackedRows::Write(uint8_t* out) const {
  VisitArrays(*this, [out](const Array& array, const auto& values) {
    if (values.empty()) return;
    std::memcpy(out + array.offset, values.data(), values.size() * sizeof(values[0]));
  });
}

}  // namespace longhaul::worker::backend
