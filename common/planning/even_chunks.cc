#include "common/planning/even_chunks.h"

#include <cmath>
#include <limits>

#include "common/logging.h"

namespace longhaul::planning {

double EvenChunkSeconds(const CostCoefficients& cost, int num_stages, int64_t begin, int64_t end) {
  CHECK(num_stages > 0 && 0 <= begin && begin <= end)
      << "num_stages=" << num_stages << " begin=" << begin << " end=" << end;
  if (num_stages == 1) return std::numeric_limits<double>::infinity();
  const double from = static_cast<double>(begin);
  const double to = static_cast<double>(end);
  const double work = cost.b * (to - from) + cost.a * (to * to - from * from);
  const double overhead = cost.c + cost.g * (from + to) / 2;
  return overhead + std::sqrt(work * overhead / (num_stages - 1));
}

}  // namespace longhaul::planning
