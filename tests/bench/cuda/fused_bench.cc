#include <random>
#include <string>
#include <vector>

#include "kernels/fused/add.h"
#include "kernels/fused/embedding.h"
#include "kernels/fused/rms_norm.h"
#include "kernels/fused/silu_mul.h"
#include "tests/bench/cuda/device_bench.h"

namespace longhaul::bench {
namespace {

using kernels::BFloat16;
using kernels::DeviceStream;

constexpr int64_t kElement = sizeof(BFloat16);

std::string Shape(int64_t rows, const char* width_name, int64_t width) {
  return "T=" + std::to_string(rows) + " " + width_name + "=" + std::to_string(width);
}

void EmbeddingCase(DeviceBench& bench, int64_t rows) {
  const BFloat16* table = bench.Take<BFloat16>(int64_t{kVocab} * kHidden);
  std::mt19937 random(1);
  std::uniform_int_distribution<int32_t> any_id(0, kVocab - 1);
  bench.Run(
      {"embedding", Shape(rows, "E", kHidden), rows * (2 * kHidden * kElement + 4)}, [&](int) {
        std::vector<int32_t> ids(rows);
        for (int32_t& id : ids) id = any_id(random);
        const kernels::EmbeddingParams<BFloat16> p = {.table = table,
                                                      .vocab_size = kVocab,
                                                      .hidden = kHidden,
                                                      .ids = bench.TakeWith(ids),
                                                      .num_rows = rows,
                                                      .out = bench.Take<BFloat16>(rows * kHidden)};
        return [p](DeviceStream stream) { return EmbeddingCuda(p, stream); };
      });
}

void AddCase(DeviceBench& bench, int64_t rows) {
  const int64_t size = rows * kHidden;
  bench.Run({"add", Shape(rows, "E", kHidden), 3 * size * kElement}, [&](int) {
    const kernels::AddParams<BFloat16> p = {
        .x = bench.Take<BFloat16>(size), .y = bench.Take<BFloat16>(size), .size = size};
    return [p](DeviceStream stream) { return AddCuda(p, stream); };
  });
}

void RmsNormCase(DeviceBench& bench, int64_t rows) {
  const int64_t size = rows * kHidden;
  const float* weight = bench.Take<float>(kHidden);
  bench.Run({"rms_norm", Shape(rows, "E", kHidden), 2 * size * kElement}, [&](int) {
    const kernels::RmsNormParams<BFloat16> p = {.x = bench.Take<BFloat16>(size),
                                                .weight = weight,
                                                .num_rows = rows,
                                                .hidden = kHidden,
                                                .eps = 1e-6f,
                                                .out = bench.Take<BFloat16>(size)};
    return [p](DeviceStream stream) { return RmsNormCuda(p, stream); };
  });
}

void SiluMulCase(DeviceBench& bench, int64_t rows) {
  const int64_t size = rows * kIntermediate;
  bench.Run({"silu_mul", Shape(rows, "I", kIntermediate), 3 * size * kElement}, [&](int) {
    const BFloat16* gate_up = bench.Take<BFloat16>(2 * size);
    const kernels::SiluMulParams<BFloat16> p = {.gate = gate_up,
                                                .up = gate_up + kIntermediate,
                                                .gate_stride = 2 * kIntermediate,
                                                .up_stride = 2 * kIntermediate,
                                                .num_rows = rows,
                                                .cols = kIntermediate,
                                                .out = bench.Take<BFloat16>(size)};
    return [p](DeviceStream stream) { return SiluMulCuda(p, stream); };
  });
}

}  // namespace

void FusedBench(DeviceBench& bench) {
  for (const int64_t rows : kRowCounts) {
    EmbeddingCase(bench, rows);
    AddCase(bench, rows);
    RmsNormCase(bench, rows);
    SiluMulCase(bench, rows);
  }
}

}  // namespace longhaul::bench
