// Kernels on a CUDA device, at the shapes of the 7B: a line of JSON a case (cuda/device_bench.h).
// Without a device it says so and ends well.
#include <cstdio>

#include "tests/bench/cuda/device_bench.h"

int main() {
  const auto bench = longhaul::bench::DeviceBench::Create();
  if (bench == nullptr) {
    std::puts("no CUDA device");
    return 0;
  }
  longhaul::bench::DecodeBench(*bench);
  longhaul::bench::FusedBench(*bench);
  longhaul::bench::RopeBench(*bench);
  longhaul::bench::SamplingBench(*bench);
  return 0;
}
