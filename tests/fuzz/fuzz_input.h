#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace longhaul::fuzz {

// An input's bytes as the choices a target makes of them, from front to back. Reading past the end
// gives zeros and empty strings, so that every input means something. A view.
class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

  bool empty() const { return rest_.empty(); }

  uint8_t Byte() {
    const std::string_view byte = Bytes(1);
    return byte.empty() ? 0 : static_cast<uint8_t>(byte[0]);
  }
  // Below `count` > 0. A letter picks as well as a byte, which keeps text corpora readable.
  size_t Below(size_t count) { return Byte() % count; }
  bool Bool() { return (Byte() & 1) != 0; }
  // The next bytes of the input as they lie there.
  template <typename T>
  T Value() {
    T value{};
    const std::string_view bytes = Bytes(sizeof(T));
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }

  // At most `count` bytes.
  std::string_view Bytes(size_t count) {
    const std::string_view bytes = rest_.substr(0, count);
    rest_.remove_prefix(bytes.size());
    return bytes;
  }
  // Up to the next `end`, which is consumed too, or all that is left.
  std::string_view Until(char end) {
    const std::string_view text = Bytes(rest_.find(end));
    Bytes(1);
    return text;
  }
  std::string_view Rest() { return Bytes(rest_.size()); }

 private:
  std::string_view rest_;
};

}  // namespace longhaul::fuzz
