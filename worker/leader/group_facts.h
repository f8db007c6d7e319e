#pragma once

#include <string>

#include "worker/leader/kv_capacity.h"

namespace longhaul::worker::leader {

// What the ranks of a group have told of themselves. Value.
struct GroupFacts {
  KvCapacity kv;
  // What they compute on (GroupHardware); empty = not known.
  std::string hardware;
};

}  // namespace longhaul::worker::leader
