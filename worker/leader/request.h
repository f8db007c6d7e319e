#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/sampling_params.h"
#include "common/types.h"

namespace longhaul::worker::leader {

// A request as the leader accepted it from a router: token ids in, every default resolved. Value.
struct Request {
  RequestId id;
  std::vector<TokenId> prompt;  // 1 token or more, each within the vocabulary
  SamplingParams sampling;
  StopParams stopping;
  int32_t priority = 0;  // higher first
  absl::Time arrival = absl::InfinitePast();
  absl::Time deadline = absl::InfiniteFuture();
  std::optional<absl::Duration>
      detach_ttl;             // runs on, and keeps events, this long without a reader
  std::string tenant_salt;    // 0 or 16 bytes
  bool shares_prefix = true;  // its KV may be reused, and may be what others left

  int64_t prompt_tokens() const { return static_cast<int64_t>(prompt.size()); }
};

}  // namespace longhaul::worker::leader
