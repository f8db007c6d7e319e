#include "common/planning/short_load.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "common/logging.h"

namespace longhaul::planning {
namespace {

// The short requests over time.
class ShortRequests {
 public:
  explicit ShortRequests(const ShortLoad& load) : load_(load), random_(load.seed) { Draw(); }

  void AdmitUntil(double now) {
    for (; next_arrival_ <= now; Draw()) {
      const int64_t tokens =
          1 + static_cast<int64_t>(random_() % static_cast<uint64_t>(load_.most_prompt_tokens));
      live_.push_back({.arrival = next_arrival_,
                       .tokens_to_run = tokens,
                       .tokens_to_come = load_.output_tokens});
    }
  }

  bool empty() const { return live_.empty(); }

  // Rows of the unit that they all get.
  int64_t Rows() const {
    int64_t rows = 0;
    for (const Request& request : live_) rows += request.tokens_to_run;
    return rows;
  }

  // Each has its next token.
  void Advance(double now, std::vector<double>& ttft_seconds) {
    for (Request& request : live_) {
      if (request.tokens_to_come == load_.output_tokens) {
        ttft_seconds.push_back(now - request.arrival);
      }
      request.tokens_to_run = 1;
      --request.tokens_to_come;
    }
    std::erase_if(live_, [](const Request& request) { return request.tokens_to_come == 0; });
  }

 private:
  struct Request {
    double arrival = 0;
    int64_t tokens_to_run = 0;
    int32_t tokens_to_come = 0;
  };

  void Draw() {
    // Of 53 random bits, and never 0: the same times with every standard library.
    const double uniform = (static_cast<double>(random_() >> 11) + 0.5) * 0x1p-53;
    next_arrival_ -= std::log(uniform) / load_.requests_per_second;
  }

  const ShortLoad load_;
  std::mt19937_64 random_;
  double next_arrival_ = 0;
  std::vector<Request> live_;
};

}  // namespace

SharedRun SimulateShortBesideLong(const GpuPrefillCosts& costs, std::span<const Chunk> chunks,
                                  const UnitLimits& limits, const ShortLoad& load) {
  CHECK(costs.num_stages() == 1) << "num_stages=" << costs.num_stages();
  CHECK(load.requests_per_second > 0 && load.most_prompt_tokens > 0 && load.output_tokens > 0);
  SharedRun run;
  ShortRequests shorts(load);
  double now = 0;
  const auto run_shorts = [&] {
    shorts.AdmitUntil(now);
    if (shorts.empty()) return;
    now += costs.StageSeconds(0, {.begin = 0, .count = shorts.Rows()}, /*last=*/true);
    shorts.Advance(now, run.short_ttft_seconds);
  };
  for (size_t i = 0; i < chunks.size(); ++i) {
    const double layer = costs.LayerSeconds(chunks[i]);
    for (int layers_left = costs.num_layers(); layers_left > 0;) {
      run_shorts();
      const double limit = shorts.empty()
                               ? limits.seconds_alone
                               : std::min(limits.seconds_alone, limits.seconds_beside_others);
      const double room = std::max(1.0, (limit - costs.overhead_seconds()) / layer);
      const int layers = static_cast<int>(std::min<double>(layers_left, room));
      layers_left -= layers;
      double seconds = costs.overhead_seconds() + layers * layer;
      if (i + 1 == chunks.size() && layers_left == 0) seconds += costs.HeadSeconds();
      now += seconds;
      run.long_busy_seconds += seconds;
    }
  }
  run.long_ttft_seconds = now;
  std::sort(run.short_ttft_seconds.begin(), run.short_ttft_seconds.end());
  return run;
}

double Percentile(std::span<const double> ascending, double share) {
  if (ascending.empty()) return 0;
  const double rank = std::ceil(share * static_cast<double>(ascending.size()));
  return ascending[static_cast<size_t>(std::max(rank, 1.0)) - 1];
}

}  // namespace longhaul::planning
