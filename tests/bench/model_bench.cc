// The whole model on the CPU beside oneDNN's own sgemm, interleaved in one run so that a noisy
// machine slows both: prefill of a long prompt (share of the peer's rate) and decoding behind it
// (tokens/s).
//
//   model_bench [--model DIR] [--prompt-tokens N] [--chunk N] [--rounds N] [--threads N] [--json
//   FILE]
//
// FLOPs counted are those the mathematics needs: 2 a weight and token for the linear layers, 4 D a
// query head for each pair of a query and a key it sees. The head (vocabulary) runs for one row
// only.
#include <dnnl.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "common/logging.h"
#include "common/model_config.h"
#include "common/thread_pool.h"
#include "tests/testing/model_runner.h"

extern "C" void omp_set_num_threads(int num_threads);

namespace longhaul {
namespace {

constexpr int64_t kPeerSize = 1024;  // rows, columns and depth of the peer's product
constexpr int kPeerRepeats = 24;     // products a thread and round
constexpr int kDecodeTokens = 64;

struct Arguments {
  std::string model = "models/demo";
  int64_t prompt_tokens = 16384;
  int64_t chunk = 1024;
  int rounds = 5;
  int threads = 0;
  std::string json_file;
};

double Seconds(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// FLOP/s of single-threaded sgemm calls on every thread at once.
double PeerRate(ThreadPool& pool) {
  std::vector<float> x(kPeerSize * kPeerSize);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (float& value : x) value = normal(random);
  std::vector<std::vector<float>> y(static_cast<size_t>(pool.num_threads()), x);
  const double seconds = Seconds([&] {
    pool.Run(pool.num_threads(), [&](int64_t thread) {
      omp_set_num_threads(1);
      for (int i = 0; i < kPeerRepeats; ++i) {
        CHECK(dnnl_sgemm('N', 'T', kPeerSize, kPeerSize, kPeerSize, 1.0f, x.data(), kPeerSize,
                         x.data(), kPeerSize, 0.0f, y[static_cast<size_t>(thread)].data(),
                         kPeerSize) == dnnl_success);
      }
    });
  });
  return 2.0 * kPeerSize * kPeerSize * kPeerSize * kPeerRepeats * pool.num_threads() / seconds;
}

double PrefillFlops(const ModelConfig& config, int64_t tokens) {
  const double head_dim = config.head_dim;
  const double hidden = config.hidden_size;
  const double weights_a_layer =
      hidden * head_dim * (2.0 * config.num_heads + 2.0 * config.num_kv_heads) +
      3.0 * hidden * config.intermediate_size;
  const double n = static_cast<double>(tokens);
  const double pairs = n * (n + 1) / 2;
  return config.num_layers * (2 * weights_a_layer * n + 4 * head_dim * config.num_heads * pairs) +
         2 * hidden * config.vocab_size;
}

struct Series {
  std::vector<double> values;
  double median() const {
    std::vector<double> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
  double low() const { return *std::min_element(values.begin(), values.end()); }
  double high() const { return *std::max_element(values.begin(), values.end()); }
  void Print(const char* name, double scale, const char* unit) const {
    std::printf("%-28s %10.3f %-9s (%.3f to %.3f, n = %zu)\n", name, median() * scale, unit,
                low() * scale, high() * scale, values.size());
  }
};

void Run(const Arguments& arguments) {
  // Filling the cache lazily is part of a first request, not of the rate: one warm-up, not counted.
  auto runner = testing::ModelRunner::Create({.model_dir = arguments.model,
                                              .threads = arguments.threads,
                                              .max_tokens = arguments.prompt_tokens + 512});
  CHECK(runner.ok()) << runner.status();
  const ModelConfig& config = (*runner)->config();
  ThreadPool pool(arguments.threads);
  std::mt19937 random(7);
  std::uniform_int_distribution<TokenId> token(0, config.vocab_size - 1);
  std::vector<TokenId> prompt(static_cast<size_t>(arguments.prompt_tokens));
  for (TokenId& id : prompt) id = token(random);

  const auto generate = [&](int tokens) {
    auto output = (*runner)->Generate(prompt, tokens, {.chunks = {arguments.chunk}});
    CHECK(output.ok()) << output.status();
    return std::move(output)->step_seconds;
  };
  generate(1);
  PeerRate(pool);

  const double flops = PrefillFlops(config, arguments.prompt_tokens);
  Series peer, prefill, share, decode;
  for (int round = 0; round < arguments.rounds; ++round) {
    const double peer_before = PeerRate(pool);
    const std::vector<double> steps = generate(kDecodeTokens);
    const double peer_after = PeerRate(pool);
    const double peer_rate = (peer_before + peer_after) / 2;
    const auto first_decode = steps.end() - (kDecodeTokens - 1);
    const double prefill_seconds = std::accumulate(steps.begin(), first_decode, 0.0);
    const double decode_seconds = std::accumulate(first_decode, steps.end(), 0.0);
    peer.values.push_back(peer_rate);
    prefill.values.push_back(flops / prefill_seconds);
    share.values.push_back(flops / prefill_seconds / peer_rate);
    decode.values.push_back((kDecodeTokens - 1) / decode_seconds);
  }
  std::printf("model %s, %ld prompt tokens in chunks of %ld, %d threads, %.1f GFLOP a prefill\n",
              arguments.model.c_str(), static_cast<long>(arguments.prompt_tokens),
              static_cast<long>(arguments.chunk), pool.num_threads(), flops * 1e-9);
  peer.Print("sgemm (oneDNN)", 1e-9, "GFLOP/s");
  prefill.Print("prefill", 1e-9, "GFLOP/s");
  share.Print("prefill / sgemm", 1, "");
  decode.Print("decode behind the prompt", 1, "tokens/s");
  if (!arguments.json_file.empty()) {
    const nlohmann::ordered_json result = {{"model", arguments.model},
                                           {"prompt_tokens", arguments.prompt_tokens},
                                           {"chunk_tokens", arguments.chunk},
                                           {"threads", pool.num_threads()},
                                           {"prefill_flop", flops},
                                           {"sgemm_flop_per_s", peer.values},
                                           {"prefill_flop_per_s", prefill.values},
                                           {"prefill_share_of_sgemm", share.values},
                                           {"decode_tokens_per_s", decode.values}};
    std::ofstream(arguments.json_file) << result.dump(1) << "\n";
  }
}

}  // namespace
}  // namespace longhaul

int main(int argc, char** argv) {
  longhaul::Arguments arguments;
  CLI::App app{"Prefill and decode rates of a model on the CPU, beside oneDNN's sgemm."};
  app.add_option("--model", arguments.model);
  app.add_option("--prompt-tokens", arguments.prompt_tokens)->check(CLI::Range(1, 1 << 20));
  app.add_option("--chunk", arguments.chunk)->check(CLI::Range(1, 1 << 20));
  app.add_option("--rounds", arguments.rounds)->check(CLI::Range(1, 100));
  app.add_option("--threads", arguments.threads)->check(CLI::Range(0, 1024));
  app.add_option("--json", arguments.json_file);
  CLI11_PARSE(app, argc, argv);
  longhaul::Run(arguments);
  return 0;
}
