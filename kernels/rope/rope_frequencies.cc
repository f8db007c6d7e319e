#include <cmath>

#include "kernels/rope/rope_table.h"

namespace longhaul::kernels {

void RopeInverseFrequencies(double theta, int32_t head_dim, float* inv_freq) {
  const float base = static_cast<float>(theta);
  for (int32_t i = 0; i < head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    // The fp32 power, rounded correctly: single-precision pow differs between math libraries.
    const float power = static_cast<float>(std::pow(double{base}, double{exponent}));
    inv_freq[i] = 1.0f / power;
  }
}

}  // namespace longhaul::kernels
