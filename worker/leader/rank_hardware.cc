#include "worker/leader/rank_hardware.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace longhaul::worker::leader {
namespace {

constexpr size_t kMaxLength = 128;

}  // namespace

std::string PrintableHardware(std::string_view said) {
  std::string printable(said.substr(0, kMaxLength));
  std::replace_if(
      printable.begin(), printable.end(), [](char c) { return c < 0x20 || c > 0x7E; }, '?');
  return printable;
}

std::string GroupHardware(const std::vector<std::string>& ranks) {
  std::string group;
  for (auto begin = ranks.begin(); begin != ranks.end();) {
    if (begin->empty()) return "";
    const auto end = std::find_if(begin, ranks.end(), [&](const auto& r) { return r != *begin; });
    const auto count = end - begin;
    absl::StrAppend(&group, group.empty() ? "" : " + ", count > 1 ? absl::StrCat(count, " x ") : "",
                    *begin);
    begin = end;
  }
  return group;
}

}  // namespace longhaul::worker::leader
