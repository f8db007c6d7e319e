#include <dnnl.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "kernels/gemm/gemm.h"

// From the OpenMP runtime that oneDNN was built with; <omp.h> would want -fopenmp.
extern "C" void omp_set_num_threads(int num_threads);

namespace longhaul::kernels {
namespace {

// oneDNN's sgemm picks code paths by shape, and not all of them add up a row's products in the same
// order. What makes a row's bits its own:
// - columns are cut by N alone, so the tile that an element is in is always called with the same n;
// - sgemm is called with few row counts only: 192, 48 and, for the tail in a padded copy, 16, 24,
//   40 or 48. Seen to agree bitwise, at any index within the call, are multiples of 8 from 16 on
//   with AVX-512, and of those only m % 24 in {0, 16} with AVX2; m < 16 never does.
// tests/kernels/gemm_test.cc holds oneDNN to it.
constexpr int64_t kRowTile = 192;
constexpr int64_t kSmallRowTile = 48;

// Wide enough that packing the rows is cheap, narrow enough that a small layer feeds several
// threads when it has but one row.
int64_t ColumnTile(int64_t n) { return n >= 1024 ? 256 : 128; }

int64_t PaddedTailRows(int64_t tail) {
  const int64_t rows = std::max<int64_t>((tail + 7) / 8 * 8, 16);
  return rows % 24 == 8 ? rows + 8 : rows;
}

// Its own team of one on each calling thread: we bring our own threads.
void UseOneOpenMpThread() {
  thread_local const bool done = [] {
    omp_set_num_threads(1);
    return true;
  }();
  static_cast<void>(done);
}

struct Tile {
  int64_t row_begin;
  int64_t num_rows;
  const float* x;
  float* y;
};

// Row tile `index` of `p`, of TileCount(p).
Tile RowTile(const GemmParams& p, int64_t index) {
  const int64_t num_large = p.m / kRowTile;
  const int64_t num_small = p.m % kRowTile / kSmallRowTile;
  if (index < num_large + num_small) {
    const int64_t begin = std::min(index, num_large) * kRowTile +
                          std::max<int64_t>(index - num_large, 0) * kSmallRowTile;
    return {begin, index < num_large ? kRowTile : kSmallRowTile, p.x + begin * p.k,
            p.y + begin * p.n};
  }
  float* tail_x = static_cast<float*>(p.workspace);
  const int64_t tail = p.m % kSmallRowTile;
  return {p.m - tail, PaddedTailRows(tail), tail_x, tail_x + kSmallRowTile * p.k};
}

int64_t RowTileCount(const GemmParams& p) {
  return p.m / kRowTile + p.m % kRowTile / kSmallRowTile + (p.m % kSmallRowTile != 0 ? 1 : 0);
}

void CopyTailIn(const GemmParams& p) {
  const int64_t tail = p.m % kSmallRowTile;
  if (tail == 0) return;
  float* tail_x = static_cast<float*>(p.workspace);
  std::copy_n(p.x + (p.m - tail) * p.k, tail * p.k, tail_x);
  std::fill(tail_x + tail * p.k, tail_x + PaddedTailRows(tail) * p.k, 0.0f);
}

dnnl_status_t RunTile(const GemmParams& p, const Tile& tile, int64_t col_begin, int64_t num_cols) {
  UseOneOpenMpThread();
  const float* weight = static_cast<const float*>(p.weight) + col_begin * p.k;
  const dnnl_status_t status = dnnl_sgemm('N', 'T', tile.num_rows, num_cols, p.k, 1.0f, tile.x, p.k,
                                          weight, p.k, 0.0f, tile.y + col_begin, p.n);
  if (status != dnnl_success) return status;
  const int64_t valid_rows = std::min(tile.num_rows, p.m - tile.row_begin);
  for (int64_t row = 0; row < valid_rows; ++row) {
    const float* from = tile.y + row * p.n + col_begin;
    float* to = p.y + (tile.row_begin + row) * p.n + col_begin;
    if (p.bias != nullptr) {
      for (int64_t i = 0; i < num_cols; ++i) to[i] = from[i] + p.bias[col_begin + i];
    } else if (to != from) {
      std::memcpy(to, from, sizeof(float) * static_cast<size_t>(num_cols));
    }
  }
  return dnnl_success;
}

}  // namespace

size_t GemmCpuWorkspaceBytes(const GemmParams& p) {
  if (p.m % kSmallRowTile == 0) return 0;
  return sizeof(float) * static_cast<size_t>(kSmallRowTile * (p.k + p.n));
}

KernelStatus GemmCpu(const GemmParams& p, Parallel& parallel) {
  if (p.m < 0 || p.n < 1 || p.k < 1 || p.weight_dtype != WeightDtype::kFloat32 ||
      (p.workspace == nullptr && GemmCpuWorkspaceBytes(p) > 0)) {
    return KernelStatus::kInvalidArgument;
  }
  if (p.m == 0) return KernelStatus::kOk;
  CopyTailIn(p);
  const int64_t row_tiles = RowTileCount(p);
  const int64_t col_tile = ColumnTile(p.n);
  const int64_t col_tiles = std::max<int64_t>(p.n / col_tile, 1);  // the last takes the rest
  std::atomic<bool> failed = false;
  // Rows inside columns: neighbouring tasks share a tile of the weight.
  parallel.Run(row_tiles * col_tiles, [&](int64_t task) {
    const int64_t col = task / row_tiles;
    const int64_t col_begin = col * col_tile;
    const int64_t col_end = col + 1 == col_tiles ? p.n : col_begin + col_tile;
    const Tile tile = RowTile(p, task % row_tiles);
    if (RunTile(p, tile, col_begin, col_end - col_begin) != dnnl_success) failed = true;
  });
  return failed ? KernelStatus::kLibraryFailure : KernelStatus::kOk;
}

}  // namespace longhaul::kernels
