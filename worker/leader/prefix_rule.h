#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "common/prefix_hash.h"
#include "worker/leader/request.h"

namespace longhaul::worker::leader {

// Whose KV blocks a request may share: the root of its chain of prefix identities
// (common/prefix_hash.h). Pure value.
struct PrefixRule {
  Digest root;  // of the model, its KV type and attention
  // Temperature mode `request`: KV of prompts above this length depends on it (gpu-notes 1).
  // 0 = mode `position`, KV depends on nothing but the tokens before it.
  int32_t original_max_position_embeddings = 0;

  Digest RootOf(const Request& request) const {
    const Digest salted = SaltPrefix(root, request.tenant_salt);
    if (original_max_position_embeddings == 0) return salted;
    const double ratio = static_cast<double>(request.prompt_tokens()) /
                         static_cast<double>(original_max_position_embeddings);
    const double factor = std::max(1.0, 0.1 * std::log(ratio) + 1.0);
    return factor == 1.0 ? salted : LengthPrefix(salted, static_cast<float>(factor));
  }
};

}  // namespace longhaul::worker::leader
