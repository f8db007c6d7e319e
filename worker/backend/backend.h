#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/sampling_params.h"
#include "common/types.h"
#include "worker/backend/device_buffer.h"
#include "worker/tensor.h"

namespace longhaul::worker::backend {

// y = x weight^T + bias, as Hugging Face stores it.
struct LinearWeight {
  TensorView weight;  // [N, K]
  TensorView bias;    // [1, N]; data null = none
};

enum class KvDType : uint8_t { kFloat32, kBFloat16 };

struct KvShape {
  int32_t num_kv_heads = 0;  // Hkv
  int32_t head_dim = 0;      // D
  KvDType dtype = KvDType::kFloat32;
};

// One layer's keys and values of all blocks. A view of a buffer of the same backend.
struct KvLayer {
  uint8_t* base = nullptr;         // this layer's part of block id 0
  int64_t block_stride_bytes = 0;  // from block id to block id
  int32_t num_blocks = 0;          // block ids are below it
  KvShape shape;
};

// Consecutive tokens of one sequence that lie in rows [row_begin, row_begin + num_rows) of a unit's
// matrices and at positions [position_begin, position_begin + num_rows) of the sequence.
struct SequenceRows {
  int64_t row_begin = 0;
  int64_t num_rows = 0;
  int64_t position_begin = 0;
  std::span<const BlockId> block_table;  // of the whole sequence; covers every position
};

// How positions become rotations. chunk_len 0 = plain RoPE.
struct RotaryRule {
  double theta = 0;
  int32_t head_dim = 0;
  int64_t chunk_len = 0;   // DCA segment, tokens
  int64_t chunk_size = 0;  // DCA clamp, tokens
};

// What a forward pass over some rows depends on besides weights and cache.
struct UnitRows {
  std::span<const SequenceRows> sequences;  // cover rows [0, T), in order
  std::span<const float> query_scale;       // [T] temperature f^2 of each row's queries
  std::span<const TokenId> ids;  // [T] rows of the embedding table; empty = nothing is embedded
};

// UnitRows as a device's ops need them, with their cosines and sines: computed once a unit and used
// by all of its layers. A copy, so that a unit cut between layers may wait with it. Of one backend,
// which knows what it holds; refilled for the next unit, so that its memory is reused.
class RowPlan {
 public:
  virtual ~RowPlan() = default;
};

// Work of a device that runs beside other work, each lane in its own order: ops, sums over shards,
// transfers between stages. The CPU has one lane, the calling thread, whatever it is called.
enum class Lane : uint8_t { kOps, kSums, kLinks };

// A moment in a lane: when what was enqueued there before Record is done. May be recorded again:
// who waits for it waits for what it was then. Of one backend, which it must not outlive.
class Mark {
 public:
  virtual ~Mark() = default;
};

// Queries of a unit, rotated for each region of Dual Chunk Attention, temperature folded in.
struct RotatedQueries {
  TensorView intra, succ, inter;  // [T, Hq * D]; rows whose sequence has no such region are garbage
};

// Which part of an endless matrix of independent standard normal numbers: an element is a function
// of seed, stream, row and column alone, so that parts agree wherever they overlap.
struct NormalWindow {
  uint64_t seed = 0;
  uint64_t stream = 0;    // which matrix
  int64_t row_begin = 0;  // rows and columns end below 2^32
  int64_t col_begin = 0;
};

// One row of logits and what its sequence's sampler knows. Spans are host memory.
struct SampleRow {
  TensorView logits;  // [1, V]
  const SamplingParams* params = nullptr;
  std::span<const uint64_t> seen;          // bitmap of prompt and output ids; empty = none
  std::span<const int32_t> output_counts;  // [V]; empty = none
  std::span<const TokenId> banned;
  uint64_t output_index = 0;  // how many tokens the sequence has generated
};

// One row of logits and the token whose logprob is asked for.
struct LogprobsRow {
  TensorView logits;    // [1, V]
  TokenId token = 0;    // within [0, V)
  int32_t num_top = 0;  // alternatives, 0..20
};

// The ops of a decoder-only transformer on one device, in the order of the forward pass.
//
// Knows nothing of layers, sequences' lives or requests. Owned by the executor thread. Work is
// complete (CPU) or enqueued in order (CUDA) on return; CopyToHost, Sample and Logprobs wait for
// it. Activations, and weights but those of norms, are of activation_dtype(); norms' weights and
// logits are fp32. A row of an op's result depends on that row's inputs alone, bit for bit: not on
// how many rows there are (on CUDA devices with the limits that docs/architecture.md names) and not
// on the number of threads. Errors: kInternal (a size outside an op's contract: a bug here),
// kUnimplemented (a shape or type that the device's kernels do not have), kResourceExhausted
// (memory).
class Backend {
 public:
  virtual ~Backend() = default;

  // Type of matrices between ops, and of the weights of linear layers and the embedding.
  virtual DType activation_dtype() const = 0;
  // At least `bytes` > 0, 64-byte aligned, zeroed; lazily backed where the device can.
  virtual absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes) = 0;
  // What computes, as people call it, threads included: "AMD EPYC 7B13, 16 threads".
  virtual std::string HardwareName() const = 0;
  // Memory that allocations could take now without taking it from others; an estimate.
  virtual int64_t FreeMemoryBytes() const = 0;
  // `host` is the caller's again on return.
  virtual absl::Status CopyToDevice(const void* host, TensorView dst) = 0;
  virtual absl::Status CopyToHost(TensorView src, void* host) = 0;
  // Waits for all ops that were enqueued; their error, if they had one.
  virtual absl::Status Finish() = 0;

  // Where a communicator enqueues what it does in a lane.
  virtual Stream StreamOf(Lane lane) = 0;
  virtual std::unique_ptr<Mark> MakeMark() = 0;
  virtual absl::Status Record(Lane lane, Mark& mark) = 0;
  // What is enqueued in `lane` from now on begins behind the mark.
  virtual absl::Status Await(const Mark& mark, Lane lane) = 0;
  // Between two marks that are past.
  virtual absl::StatusOr<absl::Duration> Elapsed(const Mark& begin, const Mark& end) = 0;

  // Does what `enqueue` does with ops of this backend over a plan's rows, perhaps by launching what
  // it has recorded of an earlier call: so `tag` names all that the work hangs on besides the plan,
  // addresses of matrices and layers. `enqueue` asks nothing of the device, copies nothing and
  // transfers nothing.
  virtual absl::Status Repeat(const RowPlan& /*plan*/, std::span<const uint64_t> /*tag*/,
                              absl::FunctionRef<absl::Status()> enqueue) {
    return enqueue();
  }
  // dst[t][column + i] = src[t][i]; columns [column, column + src.cols) lie within dst.
  virtual absl::Status CopyColumns(TensorView src, TensorView dst, int64_t column) = 0;
  // out[r][c] = sigma * element (row_begin + r, col_begin + c), of activation_dtype(). The same on
  // every device within the rounding of logarithm, sine and cosine.
  virtual absl::Status FillNormal(const NormalWindow& window, double sigma, TensorView out) = 0;
  // Bytes of one layer's part of a KV block (kKvBlockTokens tokens), scale slots included.
  virtual int64_t KvLayerBlockBytes(const KvShape& shape) const = 0;

  // Empty, to be filled by PlanRows. Must not outlive the backend.
  virtual std::unique_ptr<RowPlan> MakeRowPlan() = 0;
  // Makes `plan` that of these rows; what was enqueued with its former rows keeps them.
  virtual absl::Status PlanRows(const RotaryRule& rule, const UnitRows& rows, RowPlan& plan) = 0;

  // out[t] = table[ids[t]], the plan's ids, within [0, V). table [V, E], out [T, E].
  virtual absl::Status Embed(TensorView table, const RowPlan& plan, TensorView out) = 0;
  // out = x / sqrt(mean(x^2) + eps) * weight.
  virtual absl::Status RmsNorm(TensorView x, TensorView weight, double eps, TensorView out) = 0;
  // x += y.
  virtual absl::Status Add(TensorView x, TensorView y) = 0;
  // y may be fp32 whatever the activations are.
  virtual absl::Status Linear(TensorView x, const LinearWeight& linear, TensorView y) = 0;
  // y += x weight^T: the residual stream takes up a layer's output.
  virtual absl::Status LinearAdd(TensorView x, TensorView weight, TensorView y) = 0;
  // out [T, I] = silu(gate) * up of gate_up [T, 2I] = [gate | up].
  virtual absl::Status SiluMul(TensorView gate_up, TensorView out) = 0;
  // Linear into gate_up, then SiluMul: the same bits, but gate_up, of that size, may be left as it
  // is by a device that needs no room for it.
  virtual absl::Status GatedLinear(TensorView x, const LinearWeight& linear, TensorView gate_up,
                                   TensorView out) {
    const absl::Status done = Linear(x, linear, gate_up);
    return done.ok() ? SiluMul(gate_up, out) : done;
  }

  // Rotates q and k of qkv [T, (Hq + 2 Hkv) D], multiplies q by the plan's query_scale, writes K
  // and V to the cache.
  virtual absl::Status RotateAndStore(TensorView qkv, const RowPlan& plan, const KvLayer& kv,
                                      const RotatedQueries& queries) = 0;
  // Exact causal (dual chunk) attention, softmax scale 1 / sqrt(D). out [T, Hq * D].
  virtual absl::Status Attend(const RotatedQueries& queries, const RowPlan& plan, const KvLayer& kv,
                              TensorView out) = 0;

  // One token a row. A row's own failure (NaN or Inf logits, every token banned) is kInternal in
  // its place and harms no other.
  virtual std::vector<absl::StatusOr<GeneratedToken>> Sample(std::span<const SampleRow> rows) = 0;
  // Each row's token with its logprob and the most probable ones, as Sample reports them: of the
  // logits as they are. A row's own failure as above.
  virtual std::vector<absl::StatusOr<GeneratedToken>> Logprobs(
      std::span<const LogprobsRow> rows) = 0;
};

}  // namespace longhaul::worker::backend
