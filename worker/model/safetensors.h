#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace longhaul::worker::model {

// Element types that a safetensors header may name.
enum class StoredType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kI64,
  kU64,
  kF64
};
const char* StoredTypeName(StoredType type);  // as the header spells it, "BF16"
int64_t StoredTypeBytes(StoredType type);

// One tensor of a file; `data` views the file's mapping.
struct StoredTensor {
  std::string name;
  StoredType type = StoredType::kF32;
  std::vector<int64_t> shape;     // row-major; empty = a scalar
  std::span<const uint8_t> data;  // little-endian, not necessarily aligned

  int64_t size() const;       // elements
  std::string Shape() const;  // "[256, 768]"
};

// Name of a tensor or key for messages: quoted, control characters escaped, cut after 120 bytes.
std::string QuotedName(std::string_view name);

// A safetensors file, mapped read-only. The header is hostile until it has been checked: a file
// that opens has every tensor within the file, of the size that its type and shape say, no two
// sharing a byte or a name, and no byte of data that belongs to none.
//
// Immutable after Open and thread-safe. The tensors' views live as long as the object. A file that
// is cut short by someone else while it is mapped kills the process (SIGBUS).
class SafetensorsFile {
 public:
  static constexpr uint64_t kMaxHeaderBytes = 100'000'000;
  static constexpr size_t kMaxDimensions = 8;

  // Errors name file and tensor: kNotFound (cannot be read), kInvalidArgument (anything else).
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  // Ascending names.
  std::span<const StoredTensor> tensors() const { return tensors_; }
  // Null if there is none.
  const StoredTensor* Find(std::string_view name) const;

 private:
  SafetensorsFile(std::string path, std::span<const uint8_t> mapping);
  absl::Status ReadHeader();

  const std::string path_;
  const std::span<const uint8_t> mapping_;
  std::vector<StoredTensor> tensors_;
};

}  // namespace longhaul::worker::model
