#include "worker/backend/host_memory.h"

#include <fstream>
#include <limits>
#include <string>

#include "common/logging.h"

namespace longhaul::worker::backend {

int64_t FreeHostMemoryBytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string name;
  int64_t kib = 0;
  while (meminfo >> name >> kib) {
    if (name == "MemAvailable:") return kib * 1024;
    meminfo.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  // Every Linux since 3.14 has the line.
  LOG(FATAL) << "no MemAvailable in /proc/meminfo";
  return 0;
}

}  // namespace longhaul::worker::backend
