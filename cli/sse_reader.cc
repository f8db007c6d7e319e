#include "cli/sse_reader.h"

#include "absl/strings/str_cat.h"

namespace longhaul::cli {
namespace {

constexpr size_t kMaxEventBytes = size_t{16} << 20;

}  // namespace

absl::Status SseReader::Add(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    const std::string_view part = bytes.substr(0, end);
    if (line_.size() + data_.size() + part.size() > kMaxEventBytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("an event of the answer is over ", kMaxEventBytes, " bytes"));
    }
    line_ += part;
    if (end == std::string_view::npos) break;
    bytes.remove_prefix(end + 1);
    EndLine();
  }
  return absl::OkStatus();
}

void SseReader::EndLine() {
  if (line_.ends_with('\r')) line_.pop_back();
  std::string_view line = line_;
  if (line.empty()) {
    if (!data_.empty()) {
      data_.pop_back();
      on_event_(data_);
      data_.clear();
    }
  } else if (line.starts_with("data:")) {
    line.remove_prefix(5);
    if (line.starts_with(' ')) line.remove_prefix(1);
    data_ += line;
    data_ += '\n';
  }
  line_.clear();
}

}  // namespace longhaul::cli
