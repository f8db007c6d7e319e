// A safetensors file of foreign bytes: refused, or every tensor is what the header says, as another
// JSON parser reads it.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "worker/model/safetensors.h"

namespace longhaul::worker::model {
namespace {

using Json = nlohmann::json;

absl::StatusOr<std::unique_ptr<SafetensorsFile>> OpenBytes(std::string_view bytes) {
  const int fd = memfd_create("safetensors", MFD_CLOEXEC);
  CHECK(fd >= 0) << std::strerror(errno);
  CHECK(write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  auto file = SafetensorsFile::Open(absl::StrCat("/proc/self/fd/", fd));
  close(fd);
  return file;
}

std::string MakeFile(std::string_view header, std::string_view data) {
  const uint64_t size = header.size();
  std::string bytes(reinterpret_cast<const char*>(&size), sizeof(size));
  bytes += header;
  bytes += data;
  return bytes;
}

// Every tensor is in the header as it is in `file`, and no byte of the data is missing or shared.
void CheckTensors(const SafetensorsFile& file, const Json& header, std::string_view data) {
  size_t covered = 0;
  for (const StoredTensor& tensor : file.tensors()) {
    CHECK(file.Find(tensor.name) == &tensor) << QuotedName(tensor.name);
    const auto entry = header.find(tensor.name);
    CHECK(entry != header.end()) << QuotedName(tensor.name);
    CHECK((*entry)["dtype"] == StoredTypeName(tensor.type));
    CHECK((*entry)["shape"] == Json(tensor.shape)) << tensor.Shape();
    const auto begin = (*entry)["data_offsets"][0].get<uint64_t>();
    const auto end = (*entry)["data_offsets"][1].get<uint64_t>();
    CHECK(begin <= end && end <= data.size()) << begin << " " << end << " " << data.size();
    CHECK(tensor.data.size() == end - begin) << QuotedName(tensor.name);
    CHECK(std::equal(tensor.data.begin(), tensor.data.end(),
                     data.begin() + static_cast<ptrdiff_t>(begin),
                     [](uint8_t a, char b) { return a == static_cast<uint8_t>(b); }));
    // In order of size, zeros first: no product on the way exceeds the last.
    std::vector<int64_t> shape = tensor.shape;
    std::ranges::sort(shape);
    auto bytes = static_cast<uint64_t>(StoredTypeBytes(tensor.type));
    for (const int64_t dimension : shape) {
      CHECK(dimension >= 0);
      CHECK(!__builtin_mul_overflow(bytes, static_cast<uint64_t>(dimension), &bytes));
    }
    CHECK(bytes == tensor.data.size()) << tensor.Shape();
    covered += tensor.data.size();
  }
  CHECK(covered == data.size()) << covered << " of " << data.size();
  const size_t num_entries = header.size() - (header.contains("__metadata__") ? 1 : 0);
  CHECK(file.tensors().size() == num_entries) << num_entries;
}

void Check(std::string_view bytes) {
  const auto file = OpenBytes(bytes);
  if (!file.ok()) {
    CHECK(absl::IsInvalidArgument(file.status())) << file.status();
    return;
  }
  uint64_t header_bytes = 0;
  CHECK(bytes.size() >= sizeof(header_bytes));
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  CHECK(header_bytes <= bytes.size() - sizeof(header_bytes));
  const std::string_view text = bytes.substr(sizeof(header_bytes), header_bytes);
  const std::string_view data = bytes.substr(sizeof(header_bytes) + header_bytes);
  const Json header = Json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
  CHECK(header.is_object()) << "what was accepted is no JSON object: " << text;
  CheckTensors(**file, header, data);

  // The same header in another spelling means the same.
  const auto again = OpenBytes(MakeFile(header.dump(2), data));
  CHECK(again.ok()) << again.status();
  CheckTensors(**again, header, data);
}

}  // namespace
}  // namespace longhaul::worker::model

// First byte F: the rest is the file. Otherwise: how many bytes of data, then the header, so that
// mutations do not fight its length.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  longhaul::fuzz::FuzzInput input(data, size);
  const uint8_t mode = input.Byte();
  if (mode == 'F') {
    longhaul::worker::model::Check(input.Rest());
  } else {
    longhaul::worker::model::Check(
        longhaul::worker::model::MakeFile(input.Rest(), std::string(mode, 'x')));
  }
  return 0;
}
