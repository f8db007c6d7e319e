#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "router/cluster_view.h"

namespace longhaul::router {

// A group in one of its lives.
struct GroupLife {
  std::string address;
  uint64_t incarnation = 0;
  bool operator==(const GroupLife&) const = default;
};

struct PlacementRequest {
  std::string model;
  int32_t prompt_tokens = 0;
  int32_t max_tokens = 0;
  std::vector<GroupLife> avoid;            // rejected it a moment ago, or failed it
  std::span<const PromptPrefix> prefixes;  // the prompt's, under the groups' roots; borrowed
};

enum class PlacementOutcome {
  kPlaced,
  kFull,       // healthy groups could take it, none can now
  kTooLong,    // every healthy group has a smaller max_model_len
  kNoHealthy,  // no group is ready
};

struct Placement {
  PlacementOutcome outcome = PlacementOutcome::kNoHealthy;
  size_t group = 0;           // index into the view, with kPlaced
  GroupCharge charge;         // what to charge to the group, with kPlaced
  int32_t max_model_len = 0;  // the largest of the healthy groups, with kTooLong
};

// Chooses a group: filter (healthy, right model, long enough, not avoided, a slot for a long job,
// KV free or nothing running that could free it), score (predicted seconds until this prompt's
// first token, without the prefill of what is cached), pick the lowest; ties go to the group with
// less work, then fewer requests, then more of the prompt cached, then more free KV, then the
// first. Pure.
Placement Place(const ClusterView& view, const PlacementRequest& request);

}  // namespace longhaul::router
