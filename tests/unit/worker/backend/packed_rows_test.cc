#include "worker/backend/packed_rows.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "gtest/gtest.h"

namespace longhaul::worker::backend {
namespace {

constexpr RotaryRule kRule{.theta = 1e4, .head_dim = 64, .chunk_len = 512, .chunk_size = 768};

// A unit of some sequences, with what its rows should become.
struct TestUnit {
  struct Sequence {
    int64_t position_begin = 0;
    int64_t num_rows = 0;
    std::vector<BlockId> block_table;
  };
  std::vector<Sequence> sequences;

  PackedRows Pack(const RotaryRule& rule = kRule) const {
    PackedRows packed;
    PackInto(packed, rule);
    return packed;
  }
  void PackInto(PackedRows& packed, const RotaryRule& rule = kRule) const {
    std::vector<SequenceRows> rows;
    std::vector<float> scale;
    std::vector<TokenId> ids;
    for (const Sequence& sequence : sequences) {
      rows.push_back({.row_begin = static_cast<int64_t>(scale.size()),
                      .num_rows = sequence.num_rows,
                      .position_begin = sequence.position_begin,
                      .block_table = sequence.block_table});
      for (int64_t i = 0; i < sequence.num_rows; ++i) {
        scale.push_back(static_cast<float>(scale.size()) + 0.5f);
        ids.push_back(static_cast<TokenId>(1000 + 7 * ids.size()));
      }
    }
    packed.Pack(rule, {.sequences = rows, .query_scale = scale, .ids = ids});
  }
};

// Reads arrays back from the block that was written.
class Written {
 public:
  explicit Written(const PackedRows& rows)
      : rows_(rows), block_((rows.bytes() + 15) / 16 * 2, ~uint64_t{0}) {
    rows.Write(reinterpret_cast<uint8_t*>(block_.data()));
  }
  template <typename T>
  std::vector<T> Array(const PackedRows::Array& array) const {
    EXPECT_EQ(array.offset % 16, 0);
    EXPECT_LE(array.offset + array.count * static_cast<int64_t>(sizeof(T)), rows_.bytes());
    std::vector<T> values(static_cast<size_t>(array.count));
    if (values.empty()) return values;
    std::memcpy(values.data(), reinterpret_cast<const uint8_t*>(block_.data()) + array.offset,
                values.size() * sizeof(T));
    return values;
  }

 private:
  const PackedRows& rows_;
  std::vector<uint64_t> block_;
};

std::vector<BlockId> Table(int64_t blocks, BlockId last) {
  std::vector<BlockId> table(static_cast<size_t>(blocks));
  std::iota(table.rbegin(), table.rend(), last);
  return table;
}

TEST(PackedRows, SayWhereEachRowsTokenLies) {
  const TestUnit unit{{{.position_begin = 254, .num_rows = 4, .block_table = {9, 5}},
                       {.position_begin = 600, .num_rows = 1, .block_table = {1, 2, 3}}}};
  const PackedRows rows = unit.Pack();
  const Written written(rows);
  EXPECT_EQ(written.Array<int64_t>(rows.arrays().positions),
            (std::vector<int64_t>{254, 255, 256, 257, 600}));
  EXPECT_EQ(written.Array<int64_t>(rows.arrays().slots),
            (std::vector<int64_t>{2558, 2559, 1280, 1281, 856}));  // 9 * 256 + 254 and so on
  EXPECT_EQ(written.Array<float>(rows.arrays().query_scale),
            (std::vector<float>{0.5f, 1.5f, 2.5f, 3.5f, 4.5f}));
  EXPECT_EQ(written.Array<TokenId>(rows.arrays().ids),
            (std::vector<TokenId>{1000, 1007, 1014, 1021, 1028}));
  EXPECT_EQ(rows.min_id(), 1000);
  EXPECT_EQ(rows.max_id(), 1028);
  EXPECT_EQ(written.Array<int32_t>(rows.arrays().block_tables),
            (std::vector<int32_t>{9, 5, 1, 2, 3}));
}

TEST(PackedRows, EmptyTheTileThatTheyBegin) {
  const auto last_empty = [](int64_t begin, int64_t end) {
    const PackedRows rows = TestUnit{{{begin, end - begin, Table(4, 0)}}}.Pack();
    const auto num_empty = Written(rows).Array<int32_t>(rows.arrays().num_empty);
    EXPECT_TRUE(std::all_of(num_empty.begin(), num_empty.end() - 1,
                            [](int32_t count) { return count == 0; }));
    return num_empty.back();
  };
  EXPECT_EQ(last_empty(0, 1), 127);
  EXPECT_EQ(last_empty(0, 127), 1);
  EXPECT_EQ(last_empty(0, 128), 0);
  EXPECT_EQ(last_empty(0, 129), 127);
  EXPECT_EQ(last_empty(128, 129), 127);
  EXPECT_EQ(last_empty(100, 130), 126);
  EXPECT_EQ(last_empty(1, 100), 0);    // the tile's first token came earlier, and its tail with it
  EXPECT_EQ(last_empty(129, 130), 0);  // as in decode, mostly
  EXPECT_EQ(last_empty(129, 257), 127);
}

TEST(PackedRows, DecodeSequencesOfOneRowAndPrefillOthers) {
  const TestUnit unit{{{.position_begin = 700, .num_rows = 1, .block_table = Table(3, 0)},
                       {.position_begin = 100, .num_rows = 200, .block_table = Table(2, 10)},
                       {.position_begin = 0, .num_rows = 1, .block_table = {20}}}};
  const PackedRows rows = unit.Pack();
  const Written written(rows);
  const auto tiles = written.Array<kernels::PrefillTile>(rows.arrays().tiles);
  ASSERT_EQ(tiles.size(), 299u / kernels::kPrefillTileRows + 1 - 100u / kernels::kPrefillTileRows);
  for (const kernels::PrefillTile& tile : tiles) {
    EXPECT_EQ(tile.table_begin, 3);
    EXPECT_EQ(tile.row_origin, 1 + tile.position - 100);
  }
  const auto decoded = written.Array<kernels::DecodeRow>(rows.arrays().decode_rows);
  ASSERT_EQ(decoded.size(), 2u);
  EXPECT_EQ(decoded[0].row, 0);
  EXPECT_EQ(decoded[1].row, 201);
  const auto splits = written.Array<kernels::DecodeSplit>(rows.arrays().splits);
  EXPECT_TRUE(std::has_single_bit(splits.size())) << splits.size();
  for (const kernels::DecodeSplit& split : splits) {
    if (split.block_end == 0) continue;  // fills up
    EXPECT_EQ(split.table_begin, split.row == 0 ? 0 : 5);
    EXPECT_EQ(split.position, split.row == 0 ? 700 : 0);
  }
}

TEST(PackedRows, KnowWhichRegionsTheirRowsSee) {
  const auto regions = [](int64_t position, const RotaryRule& rule) {
    const PackedRows rows = TestUnit{{{position, 1, Table(8, 0)}}}.Pack(rule);
    return std::pair(rows.has_succ(), rows.has_inter());
  };
  EXPECT_EQ(regions(511, kRule), std::pair(false, false));
  EXPECT_EQ(regions(512, kRule), std::pair(true, false));
  EXPECT_EQ(regions(1023, kRule), std::pair(true, false));
  EXPECT_EQ(regions(1024, kRule), std::pair(true, true));
  EXPECT_EQ(regions(1024, {.theta = 1e4, .head_dim = 64}), std::pair(false, false));
}

TEST(PackedRows, OfOneSizeHaveTheirArraysInTheSamePlaces) {
  TestUnit unit;
  for (int64_t i = 0; i < 5; ++i) unit.sequences.push_back({300 + i, 1, Table(2, 0)});
  PackedRows rows;
  unit.PackInto(rows);
  const PackedRows::Arrays before = rows.arrays();
  const int64_t bytes = rows.bytes();
  for (int step = 0; step < 100; ++step) {
    for (auto& sequence : unit.sequences) ++sequence.position_begin;
    if (step == 50) unit.sequences.push_back({0, 1, {7}});
    unit.PackInto(rows);
    EXPECT_EQ(rows.bytes(), bytes);
    EXPECT_EQ(rows.arrays().positions.offset, before.positions.offset);
    EXPECT_EQ(rows.arrays().block_tables.offset, before.block_tables.offset);
    EXPECT_EQ(rows.arrays().splits.offset, before.splits.offset);
    EXPECT_EQ(rows.arrays().decode_rows.offset, before.decode_rows.offset);
  }
}

TEST(PackedRows, OfRandomUnitsAreWhatTheirSequencesSay) {
  const uint32_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937 random(seed);
  const auto below = [&random](int64_t limit) {
    return std::uniform_int_distribution<int64_t>(0, limit - 1)(random);
  };
  PackedRows rows;  // one, as a plan that is filled again
  for (int unit_number = 0; unit_number < 50; ++unit_number) {
    TestUnit unit;
    std::vector<int64_t> slots;
    std::vector<int32_t> tiled_rows;
    std::vector<int32_t> decoded_rows;
    const int64_t sequences = 1 + below(6);
    for (int64_t i = 0; i < sequences; ++i) {
      const int64_t begin = below(3000);
      const int64_t count = below(2) == 0 ? 1 : 1 + below(700);
      std::vector<BlockId> table = Table((begin + count + 255) / 256 + below(3), 0);
      std::shuffle(table.begin(), table.end(), random);
      for (int64_t p = begin; p < begin + count; ++p) {
        (count == 1 ? decoded_rows : tiled_rows).push_back(static_cast<int32_t>(slots.size()));
        slots.push_back(table[static_cast<size_t>(p / 256)] * int64_t{256} + p % 256);
      }
      unit.sequences.push_back({begin, count, table});
    }
    unit.PackInto(rows);
    const Written written(rows);
    EXPECT_EQ(rows.num_rows(), static_cast<int64_t>(slots.size()));
    EXPECT_EQ(written.Array<int64_t>(rows.arrays().slots), slots);
    std::vector<int32_t> seen;
    for (const auto& tile : written.Array<kernels::PrefillTile>(rows.arrays().tiles)) {
      for (int32_t i = tile.begin; i < tile.end; ++i) {
        seen.push_back(static_cast<int32_t>(tile.row_origin + i));
      }
    }
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(seen, tiled_rows);
    seen.clear();
    for (const auto& row : written.Array<kernels::DecodeRow>(rows.arrays().decode_rows)) {
      seen.push_back(static_cast<int32_t>(row.row));
    }
    EXPECT_EQ(seen, decoded_rows);
  }
}

}  // namespace
}  // namespace longhaul::worker::backend
