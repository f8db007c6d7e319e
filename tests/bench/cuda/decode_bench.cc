#include <memory>
#include <string>
#include <vector>

#include "tests/bench/cuda/device_bench.h"
#include "tests/testing/decode_chain.h"

namespace longhaul::bench {
namespace {

using kernels::DeviceStream;
using longhaul::testing::DecodeChain;

// A step behind a short prompt, all layers and the head. The bytes are those of the weights: what
// else is read is small.
void DecodeCase(DeviceBench& bench, int32_t rows, int64_t tokens, bool chained) {
  const longhaul::testing::DecodeShape shape = {.num_layers = kLayers,
                                                .hidden = kHidden,
                                                .intermediate = kIntermediate,
                                                .num_q_heads = kQueryHeads,
                                                .num_kv_heads = kKvHeads,
                                                .head_dim = kHeadDim,
                                                .vocab_size = kVocab,
                                                .num_rows = rows,
                                                .num_tokens = tokens};
  const auto chain = std::make_unique<DecodeChain>(
      shape,
      longhaul::testing::DecodeMemory{
          .take = [&bench](int64_t bytes) { return bench.Take<uint8_t>(bytes); },
          .take_with =
              [&bench](const void* host, int64_t bytes) {
                const auto* from = static_cast<const uint8_t*>(host);
                return bench.TakeWith(std::vector<uint8_t>(from, from + bytes));
              }},
      /*gemm=*/nullptr);
  // A step's weights are far more than any cache holds: all calls may share them.
  bench.Run({chained ? "decode_chain" : "decode_chain_apart",
             "T=" + std::to_string(rows) + " tokens=" + std::to_string(tokens) +
                 " layers=" + std::to_string(kLayers),
             chain->weight_bytes()},
            [&](int) {
              return [&](DeviceStream stream) {
                stream.chained = chained;
                return chain->Launch(stream);
              };
            });
}

}  // namespace

void DecodeBench(DeviceBench& bench) {
  for (const int32_t rows : {1, 2}) {
    for (const int64_t tokens : {200, 8000}) {
      DecodeCase(bench, rows, tokens, /*chained=*/false);
      DecodeCase(bench, rows, tokens, /*chained=*/true);
    }
  }
}

}  // namespace longhaul::bench
