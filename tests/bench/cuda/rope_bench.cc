#include <string>
#include <vector>

#include "kernels/rope/rope_qkv_paged.h"
#include "kernels/rope/rope_table.h"
#include "tests/bench/cuda/device_bench.h"

namespace longhaul::bench {
namespace {

using kernels::BFloat16;
using kernels::DeviceStream;

constexpr int64_t kHalf = kHeadDim / 2;
constexpr int64_t kTableRowBytes = 2 * kHalf * 4;

// The positions of a chunk far into a prompt, where angles are large.
void RopeTableCase(DeviceBench& bench, int64_t rows) {
  bench.Run({"rope_table", "T=" + std::to_string(rows) + " D=" + std::to_string(kHeadDim),
             rows * (8 + kTableRowBytes)},
            [&](int) {
              std::vector<int64_t> positions(rows);
              for (int64_t i = 0; i < rows; ++i) positions[i] = 900000 + i;
              const kernels::RopeTableParams p = {.positions = bench.TakeWith(positions),
                                                  .num_rows = rows,
                                                  .head_dim = kHeadDim,
                                                  .theta = 1e7,
                                                  .variant = kernels::RopeVariant::kSucc,
                                                  .chunk_len = 253952,
                                                  .chunk_size = 262144,
                                                  .cos = bench.Take<float>(rows * kHalf),
                                                  .sin = bench.Take<float>(rows * kHalf)};
              return [p](DeviceStream stream) { return RopeTableCuda(p, stream); };
            });
}

// With all three variants of q, or with one, as within the first segment.
void RopeQkvPagedCase(DeviceBench& bench, int64_t rows, int variants) {
  const kernels::KvLayout layout = {
      .num_kv_heads = kKvHeads, .head_dim = kHeadDim, .dtype = kernels::KvDtype::kBFloat16};
  const int64_t q_size = rows * kQueryHeads * kHeadDim;
  const int64_t kv_size = rows * kKvHeads * kHeadDim;
  const int64_t blocks = (rows + kernels::kBlockTokens - 1) / kernels::kBlockTokens;
  const int64_t bytes = int64_t{sizeof(BFloat16)} * ((1 + variants) * q_size + 4 * kv_size) +
                        rows * (variants * kTableRowBytes + 4 + 8 + 4);
  bench.Run({"rope_qkv_paged",
             "T=" + std::to_string(rows) + " Hq=" + std::to_string(kQueryHeads) +
                 " Hkv=" + std::to_string(kKvHeads) + " D=" + std::to_string(kHeadDim) +
                 " variants=" + std::to_string(variants),
             bytes},
            [&](int) {
              std::vector<int64_t> slot(rows);
              for (int64_t i = 0; i < rows; ++i) slot[i] = i;
              const auto angles = [&](int variant) {
                if (variant >= variants) return kernels::RopeAngles{};
                return kernels::RopeAngles{bench.Take<float>(rows * kHalf),
                                           bench.Take<float>(rows * kHalf)};
              };
              const auto queries = [&](int variant) {
                return variant < variants ? bench.Take<BFloat16>(q_size) : nullptr;
              };
              const kernels::RopeQkvPagedParams p = {
                  .qkv = bench.Take<BFloat16>(q_size + 2 * kv_size),
                  .query_scale = bench.Take<float>(rows),
                  .intra = angles(0),
                  .succ = angles(1),
                  .inter = angles(2),
                  .slot = bench.TakeWith(slot),
                  .num_empty = bench.TakeWith(std::vector<int32_t>(rows, 0)),
                  .q_intra = queries(0),
                  .q_succ = queries(1),
                  .q_inter = queries(2),
                  .kv_base = bench.Take<uint8_t>(blocks * layout.BlockBytes()),
                  .num_rows = rows,
                  .block_stride_bytes = layout.BlockBytes(),
                  .num_q_heads = kQueryHeads,
                  .layout = layout};
              return [p](DeviceStream stream) { return RopeQkvPagedCuda(p, stream); };
            });
}

}  // namespace

void RopeBench(DeviceBench& bench) {
  for (const int64_t rows : kRowCounts) {
    RopeTableCase(bench, rows);
    RopeQkvPagedCase(bench, rows, /*variants=*/1);
    RopeQkvPagedCase(bench, rows, /*variants=*/3);
  }
}

}  // namespace longhaul::bench
