#include "kernels/random/philox.h"
#include "kernels/sampling/sampling.h"

namespace longhaul::kernels {

double SamplingUniform(uint64_t seed, uint64_t token_index) {
  const PhiloxWords random = Philox4x32(
      seed, {{static_cast<uint32_t>(token_index), static_cast<uint32_t>(token_index >> 32), 0, 0}});
  const uint64_t bits = uint64_t{random.word[0]} << 32 | random.word[1];
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

}  // namespace longhaul::kernels
