#include <algorithm>

#include "kernels/attention/paged_attention.h"

namespace longhaul::kernels {
namespace {

// A split has at least this many blocks, and a row about this many splits: enough to fill a device
// with one row of few KV heads, each long enough to stream at full rate.
constexpr int32_t kMinSplitBlocks = 2;
constexpr int32_t kRowSplits = 66;

}  // namespace

std::vector<PrefillTile> PlanPrefill(std::span<const SequenceQueries> sequences) {
  std::vector<PrefillTile> tiles;
  for (const SequenceQueries& sequence : sequences) {
    const int64_t end = sequence.position_begin + sequence.num_rows;
    int64_t position = sequence.position_begin / kPrefillTileRows * kPrefillTileRows;
    for (; position < end; position += kPrefillTileRows) {
      tiles.push_back(
          {.row_origin = sequence.row_begin + position - sequence.position_begin,
           .table_begin = sequence.table_begin,
           .position = static_cast<int32_t>(position),
           .begin = static_cast<int32_t>(std::max<int64_t>(sequence.position_begin - position, 0)),
           .end = static_cast<int32_t>(std::min<int64_t>(end - position, kPrefillTileRows))});
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(), [](const PrefillTile& a, const PrefillTile& b) {
    return a.position > b.position;
  });
  return tiles;
}

DecodePlan PlanDecode(std::span<const SequenceQueries> sequences) {
  DecodePlan plan;
  int32_t partial = 0;
  for (const SequenceQueries& sequence : sequences) {
    const int32_t position = static_cast<int32_t>(sequence.position_begin);
    const int32_t blocks = position / kBlockTokens + 1;
    const int32_t split = std::max(kMinSplitBlocks, (blocks + kRowSplits - 1) / kRowSplits);
    DecodeRow row{.row = sequence.row_begin, .partial_begin = partial, .num_partials = 0};
    for (int32_t begin = 0; begin < blocks; begin += split) {
      plan.splits.push_back({.row = sequence.row_begin,
                             .table_begin = sequence.table_begin,
                             .position = position,
                             .block_begin = begin,
                             .block_end = std::min(begin + split, blocks),
                             .partial = partial++});
      ++row.num_partials;
    }
    plan.rows.push_back(row);
  }
  std::stable_sort(plan.splits.begin(), plan.splits.end(),
                   [](const DecodeSplit& a, const DecodeSplit& b) {
                     return a.block_end - a.block_begin > b.block_end - b.block_begin;
                   });
  return plan;
}

}  // namespace longhaul::kernels
