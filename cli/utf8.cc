#include "cli/utf8.h"

#include <utf8proc.h>

namespace longhaul::cli {

std::optional<size_t> InvalidUtf8At(std::string_view text) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  size_t offset = 0;
  while (offset < text.size()) {
    utf8proc_int32_t code_point = 0;
    const utf8proc_ssize_t length = utf8proc_iterate(
        bytes + offset, static_cast<utf8proc_ssize_t>(text.size() - offset), &code_point);
    if (length <= 0) return offset;
    offset += static_cast<size_t>(length);
  }
  return std::nullopt;
}

}  // namespace longhaul::cli
