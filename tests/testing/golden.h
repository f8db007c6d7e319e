#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "common/logging.h"
#include "common/types.h"
#include "tests/testing/paths.h"
#include "worker/model/safetensors.h"

namespace longhaul::testing {

// A golden file of tests/data.
class Golden {
 public:
  explicit Golden(const std::string& name) {
    auto file = worker::model::SafetensorsFile::Open(SourcePath("tests/data/" + name));
    CHECK(file.ok()) << file.status();
    file_ = *std::move(file);
  }

  std::vector<int32_t> Ints(const std::string& name) const {
    return Read<int32_t>(name, worker::model::StoredType::kI32);
  }
  std::vector<float> Floats(const std::string& name) const {
    return Read<float>(name, worker::model::StoredType::kF32);
  }

 private:
  template <typename T>
  std::vector<T> Read(const std::string& name, worker::model::StoredType type) const {
    const worker::model::StoredTensor* tensor = file_->Find(name);
    CHECK(tensor != nullptr && tensor->type == type) << file_->path() << ": " << name;
    std::vector<T> values(static_cast<size_t>(tensor->size()));
    std::memcpy(values.data(), tensor->data.data(), tensor->data.size());
    return values;
  }

  std::unique_ptr<worker::model::SafetensorsFile> file_;
};

// The generator of the golden files' inputs: see tests/data/splitmix.py.
inline uint64_t SplitMix64(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

inline std::vector<float> SplitMixUniform(uint64_t seed, size_t count, float scale = 1) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    values[i] = scale * (static_cast<float>(SplitMix64(seed, i) >> 40) * 0x1p-23f - 1.0f);
  }
  return values;
}

inline std::vector<TokenId> SplitMixTokens(uint64_t seed, size_t count, uint64_t bound) {
  std::vector<TokenId> ids(count);
  for (size_t i = 0; i < count; ++i) ids[i] = static_cast<TokenId>(SplitMix64(seed, i) % bound);
  return ids;
}

// Largest absolute difference; infinite if a value is NaN.
inline double MaxAbsDifference(const float* a, const float* b, size_t count) {
  double largest = 0;
  for (size_t i = 0; i < count; ++i) {
    const double difference = std::abs(double{a[i]} - b[i]);
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, difference);
  }
  return largest;
}

}  // namespace longhaul::testing
