#pragma once

#include <cstdint>
#include <functional>
#include <utility>

namespace longhaul::worker::backend {

// Memory of a backend, given back when destroyed. Movable; empty by default. Must not outlive the
// backend that made it.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // Calls release(data) once at the end.
  DeviceBuffer(void* data, int64_t bytes, std::function<void(void*)> release)
      : data_(data), bytes_(bytes), release_(std::move(release)) {}
  ~DeviceBuffer() {
    if (data_ != nullptr) release_(data_);
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
    return *this;
  }

  uint8_t* data() const { return static_cast<uint8_t*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  std::function<void(void*)> release_;
};

}  // namespace longhaul::worker::backend
