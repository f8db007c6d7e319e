#include "cli/batch_input.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace longhaul::cli {
namespace {

// What a router takes as one request.
constexpr size_t kMaxLineBytes = size_t{64} << 20;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

absl::StatusOr<std::unique_ptr<BatchInput>> BatchInput::Open(const std::string& path,
                                                             const std::string& model) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    return absl::UnavailableError(absl::StrCat("cannot open ", path, ": ", strerror(errno)));
  }
  std::unique_ptr<BatchInput> input(new BatchInput(fd, path, model));
  struct stat found {};
  if (fstat(fd, &found) != 0 || !S_ISREG(found.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no regular file: requests are read twice, and again to resume"));
  }
  return input;
}

BatchInput::BatchInput(int fd, std::string path, std::string model)
    : fd_(fd),
      path_(std::move(path)),
      model_(std::move(model)),
      reader_(fd_, path_, kMaxLineBytes) {}

BatchInput::~BatchInput() { close(fd_); }

absl::StatusOr<BatchInput::Counts> BatchInput::Count(
    const std::function<bool(const std::string& custom_id)>& done) const {
  LineReader reader(fd_, path_, kMaxLineBytes);
  std::unordered_map<std::string, int64_t> line_of;
  Counts counts;
  while (true) {
    ASSIGN_OR_RETURN(std::optional<Item> item, Next(reader));
    if (!item.has_value()) break;
    counts.requests++;
    const bool is_done = item->request.custom_id.has_value() && done(*item->request.custom_id);
    if (!is_done) counts.left++;
    if (!item->request.custom_id.has_value()) continue;
    const auto [first, is_new] = line_of.emplace(*item->request.custom_id, item->line);
    if (!is_new) {
      return absl::InvalidArgumentError(absl::StrCat(path_, " lines ", first->second, " and ",
                                                     item->line, " have the same custom_id \"",
                                                     first->first, "\""));
    }
  }
  if (counts.requests == 0)
    return absl::InvalidArgumentError(absl::StrCat(path_, " holds no request"));
  return counts;
}

absl::StatusOr<std::optional<BatchInput::Item>> BatchInput::Next(LineReader& reader) const {
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<LineReader::Line> line, reader.Next());
    if (!line.has_value()) return std::nullopt;
    Item item{.line = line->number, .request = {}};
    std::string_view text = line->text;
    if (line->number == 1 && text.starts_with(kByteOrderMark)) {
      text.remove_prefix(kByteOrderMark.size());
    }
    if (line->too_long) {
      item.request.fault =
          absl::InvalidArgumentError(absl::StrCat("the line is over ", kMaxLineBytes, " bytes"));
    } else if (text.find_first_not_of(" \t\r") == std::string_view::npos) {
      continue;
    } else {
      item.request = DecodeBatchRequest(text, model_);
    }
    if (!item.request.fault.ok()) {
      item.request.fault = absl::InvalidArgumentError(
          absl::StrCat("line ", item.line, ": ", std::string(item.request.fault.message())));
    }
    return item;
  }
}

}  // namespace longhaul::cli
