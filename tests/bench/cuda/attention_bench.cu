// Attention of the 7B's shape on one device: prefill chunks behind long histories, whole causal
// prompts, one row of decode. Each case's answer is checked on some rows in double before it
// counts. Prints a JSON line a case; attention_peers.py measures the peers in the same run.
//   attention_bench                         every case, some calls each
//   attention_bench --sustained SECONDS     one prefill case without a pause: what the card keeps
//   up
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention/paged_attention.h"

namespace longhaul::kernels {
namespace {

constexpr int32_t kHeads = 28;
constexpr int32_t kKvHeads = 4;
constexpr int32_t kHeadDim = 128;
constexpr int kRepeats = 7;
constexpr int kCheckedRows = 6;
constexpr int kCallsAhead = 4;  // sustained: enqueued before the first of them is waited for

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}
void Check(KernelStatus status, const char* what) {
  if (status == KernelStatus::kOk) return;
  std::fprintf(stderr, "%s: %s\n", what, KernelStatusName(status));
  std::exit(1);
}

// About normal: the sum of four uniforms, scaled to variance 1.
__global__ void FillNormal(BFloat16* out, int64_t size, uint32_t seed) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < size; i += stride) {
    uint64_t x = (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15u + seed;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    float sum = 0;
    for (int k = 0; k < 4; ++k) sum += static_cast<float>((x >> (16 * k)) & 0xffff) / 65536.0f;
    const float value = (sum - 2.0f) * 1.7320508f;
    out[i].bits = static_cast<uint16_t>(__float_as_uint(value) >> 16);
  }
}

template <typename T>
T* Allocate(int64_t count) {
  void* memory = nullptr;
  Check(cudaMalloc(&memory, count * sizeof(T)), "cudaMalloc");
  return static_cast<T*>(memory);
}
BFloat16* Random(int64_t size, uint32_t seed) {
  BFloat16* memory = Allocate<BFloat16>(size);
  FillNormal<<<1024, 256>>>(memory, size, seed);
  Check(cudaDeviceSynchronize(), "fill");
  return memory;
}
template <typename T>
T* Upload(const std::vector<T>& values) {
  T* memory = Allocate<T>(static_cast<int64_t>(values.size()));
  Check(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
        "upload");
  return memory;
}

struct Case {
  std::string name;
  int64_t begin = 0;
  int64_t rows = 0;
  int64_t chunk_len = 0;
  bool is_decode = false;
};

class Bench {
 public:
  Bench(int64_t max_tokens, int64_t max_rows) : layout_{kKvHeads, kHeadDim, KvDtype::kBFloat16} {
    num_blocks_ = static_cast<int32_t>(max_tokens / kBlockTokens);
    std::vector<int32_t> table(num_blocks_);
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(7));
    host_table_ = table;
    table_ = Upload(table);
    cache_ = reinterpret_cast<uint8_t*>(Random(num_blocks_ * layout_.BlockBytes() / 2, 1));
    for (int i = 0; i < 3; ++i) q_[i] = Random(max_rows * kHeads * kHeadDim, 2 + i);
    out_ = Allocate<BFloat16>(max_rows * kHeads * kHeadDim);
    lse_ = Allocate<float>(max_rows * kHeads);
    Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  }

  // With `sustained_seconds` above 0 for so long, and with the rates of its first second and second
  // half.
  void Run(const Case& c, double sustained_seconds = 0) {
    const PagedAttentionParams p = {.q_intra = q_[2],
                                    .q_succ = q_[1],
                                    .q_inter = q_[0],
                                    .block_tables = table_,
                                    .kv_base = cache_,
                                    .out = out_,
                                    .lse = lse_,
                                    .num_rows = c.rows,
                                    .block_stride_bytes = layout_.BlockBytes(),
                                    .num_blocks = num_blocks_,
                                    .layout = layout_,
                                    .num_q_heads = kHeads,
                                    .softmax_scale = 1 / std::sqrt(float{kHeadDim}),
                                    .chunk_len = c.chunk_len};
    const std::vector<SequenceQueries> queries = {
        {.row_begin = 0, .num_rows = c.rows, .position_begin = c.begin, .table_begin = 0}};
    const std::vector<PrefillTile> host_tiles = PlanPrefill(queries);
    const DecodePlan plan = PlanDecode(queries);
    const PrefillTile* tiles = Upload(host_tiles);
    const DecodeSplit* splits = Upload(plan.splits);
    const DecodeRow* rows = Upload(plan.rows);
    const int32_t num_splits = static_cast<int32_t>(plan.splits.size());
    void* workspace = Allocate<uint8_t>(DecodeWorkspaceBytes(p, num_splits));
    const auto launch = [&] {
      Check(c.is_decode ? DecodeAttentionCuda(p, splits, num_splits, rows, 1, workspace, {stream_})
                        : PrefillAttentionCuda(p, tiles, static_cast<int32_t>(host_tiles.size()),
                                               {stream_}),
            c.name.c_str());
    };
    Check(cudaMemset(out_, 0xff, c.rows * kHeads * kHeadDim * 2), "poison");
    launch();
    Check(cudaStreamSynchronize(stream_), c.name.c_str());
    const double error = LargestError(c);
    if (sustained_seconds > 0) {
      Sustain(c, sustained_seconds, error, launch);
      cudaFree(workspace);
      return;
    }
    std::vector<float> times;
    const int batch = c.is_decode ? 20 : 1;
    for (int i = 0; i < kRepeats; ++i) {
      cudaEvent_t begin, end;
      Check(cudaEventCreate(&begin), "event");
      Check(cudaEventCreate(&end), "event");
      Check(cudaEventRecord(begin, stream_), "event");
      for (int k = 0; k < batch; ++k) launch();
      Check(cudaEventRecord(end, stream_), "event");
      Check(cudaEventSynchronize(end), c.name.c_str());
      float ms = 0;
      Check(cudaEventElapsedTime(&ms, begin, end), "event");
      times.push_back(ms / static_cast<float>(batch));
    }
    std::sort(times.begin(), times.end());
    const double ms = times[kRepeats / 2];
    const double flops = Flops(c);
    const double bytes = static_cast<double>(c.begin + c.rows) * kKvHeads * kHeadDim * 4;
    std::printf(
        "{\"op\": \"%s\", \"case\": \"%s\", \"ms\": %.4f, \"min_ms\": %.4f, \"max_ms\": %.4f, "
        "\"tflops\": %.1f, \"tb_per_s\": %.3f, \"largest_error\": %.2e}\n",
        c.is_decode ? "decode_attention" : "prefill_attention", c.name.c_str(), ms, times.front(),
        times.back(), flops / ms * 1e-9, bytes / ms * 1e-9, error);
    std::fflush(stdout);
    if (!(error < 1e-2)) std::exit(1);
    cudaFree(workspace);
  }

 private:
  static double Flops(const Case& c) {
    const double pairs = static_cast<double>(c.rows) * c.begin +
                         0.5 * static_cast<double>(c.rows) * (static_cast<double>(c.rows) + 1);
    return 4.0 * kHeadDim * kHeads * pairs;
  }

  template <typename Launch>
  void Sustain(const Case& c, double seconds, double error, const Launch& launch) {
    const auto begin = std::chrono::steady_clock::now();
    const auto elapsed = [begin] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    cudaEvent_t events[kCallsAhead + 1];  // event i % size: the end of call i - 1
    constexpr int64_t kEvents = kCallsAhead + 1;
    for (cudaEvent_t& event : events) Check(cudaEventCreate(&event), "event");
    double first_ms = 0;
    double late_ms = 0;
    int64_t first_calls = 0;
    int64_t late_calls = 0;
    int64_t enqueued = 0;
    Check(cudaEventRecord(events[0], stream_), "event");
    for (int64_t done = 0; done < enqueued || elapsed() < seconds; ++done) {
      while (enqueued < done + kCallsAhead && elapsed() < seconds) {
        launch();
        ++enqueued;
        Check(cudaEventRecord(events[enqueued % kEvents], stream_), "event");
      }
      Check(cudaEventSynchronize(events[(done + 1) % kEvents]), c.name.c_str());
      float ms = 0;
      Check(cudaEventElapsedTime(&ms, events[done % kEvents], events[(done + 1) % kEvents]),
            "event");
      const double now = elapsed();
      if (first_calls == 0 || now <= 1) {
        first_ms += ms;
        ++first_calls;
      }
      if (now > seconds / 2) {
        late_ms += ms;
        ++late_calls;
      }
    }
    std::printf(
        "{\"op\": \"prefill_attention_sustained\", \"case\": \"%s\", \"seconds\": %.1f, "
        "\"calls\": %lld, \"tflops_first_second\": %.1f, \"tflops\": %.1f, \"largest_error\": "
        "%.2e}\n",
        c.name.c_str(), seconds, static_cast<long long>(enqueued),
        Flops(c) * static_cast<double>(first_calls) / first_ms * 1e-9,
        Flops(c) * static_cast<double>(late_calls) / late_ms * 1e-9, error);
    for (cudaEvent_t event : events) cudaEventDestroy(event);
    if (!(error < 1e-2)) std::exit(1);
  }

  static float Value(BFloat16 x) { return BFloat16ToFloat(x.bits); }

  // Of some elements against sums in double.
  double LargestError(const Case& c) {
    std::mt19937_64 random(std::random_device{}());
    double largest = 0;
    std::vector<BFloat16> block(layout_.BlockBytes() / 2);
    for (int i = 0; i < kCheckedRows; ++i) {
      const int64_t row = i == 0 ? c.rows - 1 : static_cast<int64_t>(random() % c.rows);
      const int32_t head = static_cast<int32_t>(random() % kHeads);
      const int32_t kv_head = head / (kHeads / kKvHeads);
      const int64_t position = c.begin + row;
      const int64_t segment = c.chunk_len > 0 ? position / c.chunk_len : 0;
      std::vector<BFloat16> q(3 * kHeadDim), out(kHeadDim);
      const int64_t at = (row * kHeads + head) * kHeadDim;
      for (int k = 0; k < 3; ++k) {
        Check(cudaMemcpy(&q[k * kHeadDim], q_[k] + at, kHeadDim * 2, cudaMemcpyDeviceToHost), "q");
      }
      Check(cudaMemcpy(out.data(), out_ + at, kHeadDim * 2, cudaMemcpyDeviceToHost), "out");
      std::vector<double> sums(kHeadDim);
      double total = 0;
      for (int64_t key = 0; key <= position; ++key) {
        if (key % kBlockTokens == 0) {
          const uint8_t* from = cache_ + host_table_[key / kBlockTokens] * layout_.BlockBytes();
          // Only this head's K and V.
          Check(cudaMemcpy(block.data(), from + layout_.KOffset(kv_head), layout_.HeadBytes(),
                           cudaMemcpyDeviceToHost),
                "k");
          Check(cudaMemcpy(block.data() + layout_.HeadBytes() / 2, from + layout_.VOffset(kv_head),
                           layout_.HeadBytes(), cudaMemcpyDeviceToHost),
                "v");
        }
        const int64_t of = c.chunk_len > 0 ? key / c.chunk_len : 0;
        const BFloat16* query = &q[kHeadDim * (of == segment ? 2 : of == segment - 1 ? 1 : 0)];
        const BFloat16* k = &block[key % kBlockTokens * kHeadDim];
        const BFloat16* v = k + layout_.HeadBytes() / 2;
        double score = 0;
        for (int d = 0; d < kHeadDim; ++d) score += double{Value(query[d])} * Value(k[d]);
        const double weight = std::exp(score / std::sqrt(double{kHeadDim}));
        total += weight;
        for (int d = 0; d < kHeadDim; ++d) sums[d] += weight * Value(v[d]);
      }
      for (int d = 0; d < kHeadDim; ++d) {
        const double error = std::abs(sums[d] / total - Value(out[d]));
        if (!(error <= largest)) largest = error;  // a NaN stays
      }
    }
    return largest;
  }

  const KvLayout layout_;
  int32_t num_blocks_ = 0;
  std::vector<int32_t> host_table_;
  int32_t* table_ = nullptr;
  uint8_t* cache_ = nullptr;
  BFloat16* q_[3] = {};  // inter, succ, intra
  BFloat16* out_ = nullptr;
  float* lse_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

int Main(int argc, char** argv) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    std::printf("no CUDA device\n");
    return 0;
  }
  double sustained_seconds = 0;
  if (argc == 3 && std::string(argv[1]) == "--sustained") sustained_seconds = std::atof(argv[2]);
  if (argc != 1 && !(sustained_seconds > 0)) {
    std::fprintf(stderr, "usage: attention_bench [--sustained SECONDS]\n");
    return 2;
  }
  constexpr int64_t kMillion = 1 << 20;
  Bench bench(kMillion, 262'144);
  const Case cases[] = {
      {"causal 8192", 0, 8192},
      {"causal 32768", 0, 32'768},
      {"causal 131072", 0, 131'072},
      {"causal 262144", 0, 262'144},
      {"32768 x 131072", 131'072 - 32'768, 32'768},
      {"32768 x 1048576", kMillion - 32'768, 32'768},
      {"32768 x 1048576, DCA 253952", kMillion - 32'768, 32'768, 253'952},
      {"1 x 8192", 8191, 1, 0, true},
      {"1 x 131072", 131'071, 1, 0, true},
      {"1 x 1048576", kMillion - 1, 1, 0, true},
      {"1 x 1048576, DCA 253952", kMillion - 1, 1, 253'952, true},
  };
  if (sustained_seconds > 0) {
    bench.Run({"causal 131072", 0, 131'072}, sustained_seconds);
    return 0;
  }
  for (const Case& c : cases) bench.Run(c);
  return 0;
}

}  // namespace
}  // namespace longhaul::kernels

int main(int argc, char** argv) { return longhaul::kernels::Main(argc, argv); }
