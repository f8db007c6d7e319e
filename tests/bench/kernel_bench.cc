// Rates of the CPU kernels, with oneDNN's own sgemm as the peer in the same run. One thread: what a
// core does; cores scale as far as memory lets them. Rates count useful work: causal attention is
// 4 * D flops for each pair of a query and a key it sees.
#include <benchmark/benchmark.h>
#include <dnnl.h>

#include <random>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_tile.h"
#include "kernels/fused/rms_norm.h"
#include "kernels/fused/silu_mul.h"
#include "kernels/gemm/gemm.h"
#include "kernels/rope/rope_table.h"
#include "kernels/sampling/sampling.h"
#include "tests/testing/kernel_testing.h"
#include "tests/testing/paged_cache.h"

extern "C" void omp_set_num_threads(int num_threads);

namespace longhaul::kernels {
namespace {

using longhaul::testing::Normal;
using longhaul::testing::PagedCache;

void SetRate(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

// Rows, columns, depth: layers of the demo model and of the 7B.
void GemmShapes(benchmark::internal::Benchmark* bench) {
  for (const int64_t rows : {1, 16, 1024}) bench->Args({rows, 1536, 256});
  for (const int64_t rows : {1, 1024}) bench->Args({rows, 3584, 3584});
}

void BM_SgemmPeer(benchmark::State& state) {
  omp_set_num_threads(1);
  std::mt19937_64 random(1);
  const int64_t m = state.range(0);
  const int64_t n = state.range(1);
  const int64_t k = state.range(2);
  const std::vector<float> x = Normal(random, m * k);
  const std::vector<float> weight = Normal(random, n * k);
  std::vector<float> y(m * n);
  for (auto _ : state) {
    dnnl_sgemm('N', 'T', m, n, k, 1.0f, x.data(), k, weight.data(), k, 0.0f, y.data(), n);
    benchmark::ClobberMemory();
  }
  SetRate(state, 2.0 * static_cast<double>(m * n * k));
}
BENCHMARK(BM_SgemmPeer)->Apply(GemmShapes);

void BM_Gemm(benchmark::State& state) {
  std::mt19937_64 random(1);
  const int64_t m = state.range(0);
  const int64_t n = state.range(1);
  const int64_t k = state.range(2);
  const std::vector<float> x = Normal(random, m * k);
  const std::vector<float> weight = Normal(random, n * k);
  const std::vector<float> bias = Normal(random, n);
  std::vector<float> y(m * n);
  GemmParams params = {.x = x.data(),
                       .weight = weight.data(),
                       .bias = bias.data(),
                       .m = m,
                       .n = n,
                       .k = k,
                       .y = y.data()};
  std::vector<float> workspace(GemmCpuWorkspaceBytes(params) / sizeof(float));
  params.workspace = workspace.data();
  SerialParallel serial;
  for (auto _ : state) {
    if (GemmCpu(params, serial) != KernelStatus::kOk) state.SkipWithError("GemmCpu failed");
    benchmark::ClobberMemory();
  }
  SetRate(state, 2.0 * static_cast<double>(m * n * k));
}
BENCHMARK(BM_Gemm)->Apply(GemmShapes);

// Two query heads on one KV head, as in the demo model.
void RunAttention(benchmark::State& state, CpuIsa isa, KvDtype dtype, int64_t length, int64_t rows,
                  int32_t head_dim) {
  if (isa > BestCpuIsa()) return state.SkipWithError("not on this machine");
  std::mt19937_64 random(1);
  PagedCache cache(random, {1, head_dim, dtype}, length);
  const std::vector<float> kv = Normal(random, 2 * head_dim);
  for (int64_t t = 0; t < length; ++t) cache.Write(t, kv.data(), kv.data() + head_dim);
  const std::vector<float> q = Normal(random, rows * 2 * head_dim);
  std::vector<float> out(q.size());
  SerialParallel serial;
  for (auto _ : state) {
    const KernelStatus status = AttentionCpuWith(isa,
                                                 {.q_intra = q.data(),
                                                  .num_rows = rows,
                                                  .query_begin = length - rows,
                                                  .num_q_heads = 2,
                                                  .softmax_scale = 0.1f,
                                                  .kv = cache.View(),
                                                  .out = out.data()},
                                                 serial);
    if (status != KernelStatus::kOk) state.SkipWithError("AttentionCpu failed");
    benchmark::ClobberMemory();
  }
  const double pairs = static_cast<double>(rows) * static_cast<double>(length) -
                       static_cast<double>(rows) * static_cast<double>(rows - 1) / 2;
  SetRate(state, 2 * 4.0 * head_dim * pairs);
  state.SetBytesProcessed(state.iterations() * length * 2 * head_dim *
                          (dtype == KvDtype::kFloat32 ? 4 : 2));
}

// A chunk of 1,024 queries at the end of 16,384 tokens: head_dim, KV type, instruction set.
void BM_AttentionPrefill(benchmark::State& state) {
  RunAttention(state, static_cast<CpuIsa>(state.range(2)), static_cast<KvDtype>(state.range(1)),
               16384, 1024, static_cast<int32_t>(state.range(0)));
}
BENCHMARK(BM_AttentionPrefill)
    ->ArgNames({"D", "bf16", "isa"})
    ->ArgsProduct({{64, 128}, {0, 1}, {0, 1, 2}})
    ->Unit(benchmark::kMillisecond);

// All queries of 16,384 tokens.
void BM_AttentionWhole(benchmark::State& state) {
  RunAttention(state, BestCpuIsa(), KvDtype::kFloat32, 16384, 16384, 128);
}
BENCHMARK(BM_AttentionWhole)->Iterations(1)->Unit(benchmark::kMillisecond);

// One query after 16,384 tokens: bound by the bytes of the cache.
void BM_AttentionDecode(benchmark::State& state) {
  RunAttention(state, BestCpuIsa(), static_cast<KvDtype>(state.range(0)), 16384, 1, 128);
}
BENCHMARK(BM_AttentionDecode)->ArgName("bf16")->Arg(0)->Arg(1);

void BM_RmsNorm(benchmark::State& state) {
  std::mt19937_64 random(1);
  const std::vector<float> x = Normal(random, 1024 * 256);
  const std::vector<float> weight = Normal(random, 256);
  std::vector<float> out(x.size());
  SerialParallel serial;
  for (auto _ : state) {
    benchmark::DoNotOptimize(RmsNormCpu({.x = x.data(),
                                         .weight = weight.data(),
                                         .num_rows = 1024,
                                         .hidden = 256,
                                         .eps = 1e-6f,
                                         .out = out.data()},
                                        serial));
  }
  state.SetItemsProcessed(state.iterations() * 1024 * 256);
}
BENCHMARK(BM_RmsNorm);

void BM_SiluMul(benchmark::State& state) {
  std::mt19937_64 random(1);
  const std::vector<float> gate_up = Normal(random, 1024 * 1536);
  std::vector<float> out(1024 * 768);
  SerialParallel serial;
  for (auto _ : state) {
    benchmark::DoNotOptimize(SiluMulCpu({.gate = gate_up.data(),
                                         .up = gate_up.data() + 768,
                                         .gate_stride = 1536,
                                         .up_stride = 1536,
                                         .num_rows = 1024,
                                         .cols = 768,
                                         .out = out.data()},
                                        serial));
  }
  state.SetItemsProcessed(state.iterations() * 1024 * 768);
}
BENCHMARK(BM_SiluMul);

void BM_RopeTable(benchmark::State& state) {
  std::vector<int64_t> positions(1024);
  for (int64_t t = 0; t < 1024; ++t) positions[t] = 200000 + t;
  std::vector<float> cos(1024 * 64);
  std::vector<float> sin(1024 * 64);
  SerialParallel serial;
  for (auto _ : state) {
    benchmark::DoNotOptimize(RopeTableCpu({.positions = positions.data(),
                                           .num_rows = 1024,
                                           .head_dim = 128,
                                           .theta = 1e7,
                                           .cos = cos.data(),
                                           .sin = sin.data()},
                                          serial));
  }
  state.SetItemsProcessed(state.iterations() * 1024 * 64);
}
BENCHMARK(BM_RopeTable);

// A row of the published vocabulary: greedy, the published defaults, top_p alone.
void BM_Sampling(benchmark::State& state) {
  std::mt19937_64 random(1);
  const std::vector<float> logits = Normal(random, 152064, 2);
  std::vector<double> workspace(SamplingWorkspaceBytes(152064) / sizeof(double));
  SamplingParams params = {.logits = logits.data(), .vocab_size = 152064};
  params.temperature = state.range(0) == 0 ? 0 : 0.7f;
  params.top_k = state.range(0) == 1 ? 20 : 0;
  params.top_p = 0.8f;
  params.workspace = workspace.data();
  SamplingResult result;
  for (auto _ : state) {
    ++params.token_index;
    benchmark::DoNotOptimize(SamplingCpu(params, &result));
  }
}
BENCHMARK(BM_Sampling)->Arg(0)->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace longhaul::kernels
