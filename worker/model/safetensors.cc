#include "worker/model/safetensors.h"

#include <fcntl.h>
#include <simdjson.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"

namespace longhaul::worker::model {
namespace {

namespace json = simdjson::ondemand;

struct TypeInfo {
  StoredType type;
  const char* name;
  int64_t bytes;
};
constexpr std::array<TypeInfo, 15> kTypes = {{{StoredType::kBool, "BOOL", 1},
                                              {StoredType::kU8, "U8", 1},
                                              {StoredType::kI8, "I8", 1},
                                              {StoredType::kF8E4M3, "F8_E4M3", 1},
                                              {StoredType::kF8E5M2, "F8_E5M2", 1},
                                              {StoredType::kI16, "I16", 2},
                                              {StoredType::kU16, "U16", 2},
                                              {StoredType::kF16, "F16", 2},
                                              {StoredType::kBF16, "BF16", 2},
                                              {StoredType::kI32, "I32", 4},
                                              {StoredType::kU32, "U32", 4},
                                              {StoredType::kF32, "F32", 4},
                                              {StoredType::kI64, "I64", 8},
                                              {StoredType::kU64, "U64", 8},
                                              {StoredType::kF64, "F64", 8}}};

const TypeInfo& InfoOf(StoredType type) { return kTypes[static_cast<size_t>(type)]; }

absl::Status Bad(const std::string& what) { return absl::InvalidArgumentError(what); }

absl::Status NotJson(simdjson::error_code error) {
  return Bad(absl::StrCat("header is not the JSON it should be: ", simdjson::error_message(error)));
}

// Position of a tensor in the data section.
struct Extent {
  uint64_t begin = 0;
  uint64_t end = 0;
};

// A JSON array of at most `max` unsigned integers.
absl::StatusOr<std::vector<uint64_t>> ReadNumbers(json::value value, const char* key, size_t max) {
  json::array array;
  if (const auto error = value.get_array().get(array)) {
    return Bad(absl::StrCat(key, " is not an array: ", simdjson::error_message(error)));
  }
  std::vector<uint64_t> numbers;
  for (auto element : array) {
    uint64_t number = 0;
    if (const auto error = element.get_uint64().get(number)) {
      return Bad(absl::StrCat(key, " holds something that is no unsigned 64-bit integer: ",
                              simdjson::error_message(error)));
    }
    if (numbers.size() == max) {
      return Bad(absl::StrCat(key, " has more than ", max, " entries"));
    }
    numbers.push_back(number);
  }
  return numbers;
}

absl::StatusOr<StoredType> ReadType(json::value value) {
  std::string_view text;
  if (value.get_string().get(text)) return Bad("dtype is not a string");
  for (const TypeInfo& info : kTypes) {
    if (text == info.name) return info.type;
  }
  return Bad(absl::StrCat("unknown dtype ", QuotedName(text)));
}

// One entry of the header: the object behind a tensor's name.
absl::Status ReadTensor(json::value value, StoredTensor& tensor, Extent& extent) {
  json::object object;
  if (value.get_object().get(object)) return Bad("entry is not an object");
  bool has_type = false;
  bool has_shape = false;
  bool has_offsets = false;
  for (auto item : object) {
    json::field field;
    if (const auto error = std::move(item).get(field)) return NotJson(error);
    std::string_view key;
    if (const auto error = field.unescaped_key().get(key)) return NotJson(error);
    if (key == "dtype" && !has_type) {
      has_type = true;
      ASSIGN_OR_RETURN(tensor.type, ReadType(field.value()));
    } else if (key == "shape" && !has_shape) {
      has_shape = true;
      ASSIGN_OR_RETURN(const std::vector<uint64_t> shape,
                       ReadNumbers(field.value(), "shape", SafetensorsFile::kMaxDimensions));
      for (const uint64_t dimension : shape) {
        if (dimension > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
          return Bad(absl::StrCat("dimension ", dimension, " is above 2^63 - 1"));
        }
        tensor.shape.push_back(static_cast<int64_t>(dimension));
      }
    } else if (key == "data_offsets" && !has_offsets) {
      has_offsets = true;
      ASSIGN_OR_RETURN(const std::vector<uint64_t> offsets,
                       ReadNumbers(field.value(), "data_offsets", 2));
      if (offsets.size() != 2) return Bad("data_offsets does not have two entries");
      extent = {offsets[0], offsets[1]};
    } else {
      return Bad(absl::StrCat("unexpected or repeated key ", QuotedName(key)));
    }
  }
  if (!has_type || !has_shape || !has_offsets) {
    return Bad("dtype, shape or data_offsets is missing");
  }
  return absl::OkStatus();
}

// Bytes that type and shape ask for.
absl::StatusOr<uint64_t> BytesOf(const StoredTensor& tensor) {
  uint64_t bytes = static_cast<uint64_t>(StoredTypeBytes(tensor.type));
  for (const int64_t dimension : tensor.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dimension), &bytes)) {
      return Bad(absl::StrCat("shape ", tensor.Shape(), " overflows 64 bits"));
    }
  }
  return bytes;
}

absl::Status CheckMetadata(json::value value) {
  json::object object;
  if (value.get_object().get(object)) return Bad("__metadata__ is not an object");
  for (auto item : object) {
    json::field field;
    if (const auto error = std::move(item).get(field)) return NotJson(error);
    std::string_view text;
    if (field.value().get_string().get(text)) return Bad("__metadata__ holds more than strings");
  }
  return absl::OkStatus();
}

// The header's tensors with their places; data is not set yet.
absl::StatusOr<std::vector<std::pair<Extent, StoredTensor>>> ParseHeader(std::string_view header) {
  const simdjson::padded_string padded(header);
  json::parser parser;
  json::document document;
  if (const auto error = parser.iterate(padded).get(document)) return NotJson(error);
  json::object object;
  if (const auto error = document.get_object().get(object)) return NotJson(error);
  std::vector<std::pair<Extent, StoredTensor>> tensors;
  for (auto item : object) {
    json::field field;
    if (const auto error = std::move(item).get(field)) return NotJson(error);
    std::string_view key;
    if (const auto error = field.unescaped_key().get(key)) return NotJson(error);
    if (key == "__metadata__") {
      RETURN_IF_ERROR(CheckMetadata(field.value()));
      continue;
    }
    StoredTensor tensor;
    tensor.name = std::string(key);
    Extent extent;
    RETURN_IF_ERROR(ReadTensor(field.value(), tensor, extent))
        << "tensor " << QuotedName(tensor.name);
    tensors.emplace_back(extent, std::move(tensor));
  }
  if (!document.current_location().error()) return Bad("header has text after its JSON object");
  return tensors;
}

// In order of place, every byte of the data section belongs to exactly one tensor.
absl::Status CheckExtents(std::vector<std::pair<Extent, StoredTensor>>& tensors,
                          uint64_t data_bytes) {
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first.begin, a.first.end) < std::pair(b.first.begin, b.first.end);
  });
  uint64_t covered = 0;
  for (const auto& [extent, tensor] : tensors) {
    const std::string place = absl::StrCat("tensor ", QuotedName(tensor.name), " at bytes [",
                                           extent.begin, ", ", extent.end, ")");
    if (extent.begin > extent.end || extent.end > data_bytes) {
      return Bad(absl::StrCat(place, " is not within the file's ", data_bytes, " bytes of data"));
    }
    ASSIGN_OR_RETURN(const uint64_t bytes, BytesOf(tensor));
    if (bytes != extent.end - extent.begin) {
      return Bad(absl::StrCat(place, " has ", extent.end - extent.begin, " bytes, but ",
                              StoredTypeName(tensor.type), " of shape ", tensor.Shape(), " has ",
                              bytes));
    }
    if (extent.begin < covered) return Bad(absl::StrCat(place, " overlaps another tensor"));
    if (extent.begin > covered) {
      return Bad(absl::StrCat(place, " leaves ", extent.begin - covered,
                              " bytes before it that belong to no tensor"));
    }
    covered = extent.end;
  }
  if (covered != data_bytes) {
    return Bad(absl::StrCat("tensors end at byte ", covered, " of ", data_bytes, " bytes of data"));
  }
  return absl::OkStatus();
}

}  // namespace

const char* StoredTypeName(StoredType type) { return InfoOf(type).name; }
int64_t StoredTypeBytes(StoredType type) { return InfoOf(type).bytes; }

int64_t StoredTensor::size() const {
  return static_cast<int64_t>(data.size()) / StoredTypeBytes(type);
}

std::string StoredTensor::Shape() const {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

std::string QuotedName(std::string_view name) {
  constexpr size_t kMaxBytes = 120;
  const bool cut = name.size() > kMaxBytes;
  name = name.substr(0, kMaxBytes);
  return absl::StrCat("'", absl::CHexEscape({name.data(), name.size()}), cut ? "..." : "", "'");
}

SafetensorsFile::SafetensorsFile(std::string path, std::span<const uint8_t> mapping)
    : path_(std::move(path)), mapping_(mapping) {}

SafetensorsFile::~SafetensorsFile() {
  munmap(const_cast<uint8_t*>(mapping_.data()), mapping_.size());
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
  struct stat info = {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return Bad(absl::StrCat(path, ": not a regular file"));
  }
  const size_t bytes = static_cast<size_t>(info.st_size);
  if (bytes < sizeof(uint64_t)) {
    close(fd);
    return Bad(absl::StrCat(path, ": has ", bytes, " bytes, a safetensors file has at least 8"));
  }
  void* mapping = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  close(fd);
  if (mapping == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": cannot map ", bytes, " bytes: ", std::strerror(error)));
  }
  std::unique_ptr<SafetensorsFile> file(
      new SafetensorsFile(path, {static_cast<const uint8_t*>(mapping), bytes}));
  RETURN_IF_ERROR(file->ReadHeader()) << path;
  return file;
}

absl::Status SafetensorsFile::ReadHeader() {
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, mapping_.data(), sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes) {
    return Bad(absl::StrCat("header of ", header_bytes, " bytes, limit ", kMaxHeaderBytes));
  }
  const std::span<const uint8_t> rest = mapping_.subspan(sizeof(header_bytes));
  if (header_bytes > rest.size()) {
    return Bad(absl::StrCat("truncated: header of ", header_bytes, " bytes in a file of ",
                            mapping_.size()));
  }
  const std::span<const uint8_t> data = rest.subspan(header_bytes);
  ASSIGN_OR_RETURN(auto tensors,
                   ParseHeader({reinterpret_cast<const char*>(rest.data()), header_bytes}));
  RETURN_IF_ERROR(CheckExtents(tensors, data.size()));
  for (auto& [extent, tensor] : tensors) {
    tensor.data = data.subspan(extent.begin, extent.end - extent.begin);
    tensors_.push_back(std::move(tensor));
  }
  std::sort(tensors_.begin(), tensors_.end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(
      tensors_.begin(), tensors_.end(),
      [](const StoredTensor& a, const StoredTensor& b) { return a.name == b.name; });
  if (twice != tensors_.end()) {
    return Bad(absl::StrCat("tensor ", QuotedName(twice->name), " is there twice"));
  }
  return absl::OkStatus();
}

const StoredTensor* SafetensorsFile::Find(std::string_view name) const {
  const auto found = std::lower_bound(
      tensors_.begin(), tensors_.end(), name,
      [](const StoredTensor& tensor, std::string_view wanted) { return tensor.name < wanted; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

}  // namespace longhaul::worker::model
