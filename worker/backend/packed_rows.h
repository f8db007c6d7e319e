#pragma once

#include <cstdint>
#include <vector>

#include "common/types.h"
#include "kernels/attention/paged_attention.h"
#include "worker/backend/backend.h"

namespace longhaul::worker::backend {

// A unit's rows as the arrays that kernels over a paged cache take, in one block of bytes: one copy
// brings them to the device.
//
// Host side only: knows no device. Where an array begins depends on how many entries each array
// has, rounded up to a power of two: a unit of about the same size has its arrays in the same
// places, and as many splits of decoded rows (filled up with empty ones). Sequences with one row
// are decoded, others are prefilled. Not thread-safe.
class PackedRows {
 public:
  // `count` entries from byte `offset` of the block on.
  struct Array {
    int64_t offset = 0;
    int64_t count = 0;
  };
  struct Arrays {
    Array ids;           // TokenId [T], or none
    Array query_scale;   // float [T]
    Array positions;     // int64_t [T]
    Array slots;         // int64_t [T] block id * 256 + token within the block
    Array num_empty;     // int32_t [T], see RopeQkvPagedParams
    Array block_tables;  // int32_t, of all sequences, one behind the other
    Array tiles;         // kernels::PrefillTile
    Array splits;        // kernels::DecodeSplit
    Array decode_rows;   // kernels::DecodeRow
  };

  // Of a new unit. Its spans may go once this returns.
  void Pack(const RotaryRule& rule, const UnitRows& rows);

  const Arrays& arrays() const { return arrays_; }
  int64_t bytes() const { return bytes_; }
  // Writes the block; `out` is 16-byte aligned and has bytes() bytes. Gaps stay as they are.
  void Write(uint8_t* out) const;

  int64_t num_rows() const { return static_cast<int64_t>(positions_.size()); }
  // Whether all sequences have one row.
  bool is_decode() const { return prefills_.empty(); }
  // Whether a row lies in a segment behind the first, or the second.
  bool has_succ() const { return has_succ_; }
  bool has_inter() const { return has_inter_; }
  // Of ids; [0, -1] without.
  TokenId min_id() const { return min_id_; }
  TokenId max_id() const { return max_id_; }

 private:
  void Add(const SequenceRows& sequence);
  // Calls visit(array, its values) for each array, in the order of the block.
  template <typename Rows, typename Visit>
  static void VisitArrays(Rows& rows, Visit visit);
  void Place();

  std::vector<TokenId> ids_;
  std::vector<float> query_scale_;
  std::vector<int64_t> positions_;
  std::vector<int64_t> slots_;
  std::vector<int32_t> num_empty_;
  std::vector<int32_t> block_tables_;
  std::vector<kernels::SequenceQueries> prefills_;
  std::vector<kernels::SequenceQueries> decodes_;
  std::vector<kernels::PrefillTile> tiles_;
  kernels::DecodePlan decode_;
  Arrays arrays_;
  int64_t bytes_ = 0;
  bool has_succ_ = false;
  bool has_inter_ = false;
  TokenId min_id_ = 0;
  TokenId max_id_ = -1;
};

}  // namespace longhaul::worker::backend
