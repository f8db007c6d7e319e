#pragma once

#include <cstdint>

namespace longhaul::worker::leader {

// KV blocks that every rank of a group can hold, by tier. Value.
struct KvCapacity {
  int32_t blocks = 0;      // on the device
  int32_t host_slots = 0;  // in host memory
  int32_t disk_slots = 0;  // in a file
  // The disk slots hold what an earlier incarnation of the same leader stored.
  bool disk_kept = false;
};

}  // namespace longhaul::worker::leader
