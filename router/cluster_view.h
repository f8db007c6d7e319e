#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/cost_model.h"
#include "common/types.h"
#include "router/prefix_set.h"

namespace longhaul::router {

// What a group said about itself when the Watch began.
struct GroupLimits {
  std::string model;  // served name
  Digest model_digest;
  int32_t max_model_len = 0;           // tokens
  int32_t kv_blocks = 0;               // in all, of kKvBlockTokens tokens
  int32_t max_waiting_long = 1;        // long jobs that the leader lets wait
  int32_t long_prompt_tokens = 0;      // a prompt from this length on is a long job; 0 = none is
  Digest prefix_root;                  // of PrefixChain
  int32_t prefix_root_max_tokens = 0;  // longer prompts have another root; 0 = none has
};

// A prompt's chain of prefix identities under one group's root.
struct PromptPrefix {
  Digest root;
  std::vector<Digest> chain;
};

// The last load event.
struct GroupLoad {
  uint64_t sequence = 0;  // of this Watch; 0 = none came yet
  int32_t running_requests = 0;
  int32_t waiting_requests = 0;
  double queued_seconds = 0;  // predicted time of the prompt tokens admitted and not yet processed
  int32_t free_kv_blocks = 0;
  bool ready = false;
  bool draining = false;
  CostCoefficients cost;  // zero until the leader has fitted them
};

// Work that this router sent and that the group's load does not show yet.
struct GroupCharge {
  int32_t requests = 0;
  int32_t waiting_long = 0;  // long jobs of this router whose prefill has not begun
  double seconds = 0;        // predicted prefill
  int64_t kv_blocks = 0;
};

struct Group {
  std::string address;
  uint64_t incarnation = 0;
  GroupLimits limits;
  GroupLoad load;
  GroupCharge charge;
  std::shared_ptr<const PrefixSet> cached;  // null = nothing is

  bool healthy() const { return load.ready && !load.draining; }
  bool IsLong(int32_t prompt_tokens) const {
    return limits.long_prompt_tokens > 0 && prompt_tokens >= limits.long_prompt_tokens;
  }
  // Requests that it has or is about to have.
  int32_t num_requests() const {
    return load.running_requests + load.waiting_requests + charge.requests;
  }
  double backlog_seconds() const { return load.queued_seconds + charge.seconds; }
  // Seconds until a prefill of `own` seconds (0 = unknown) has had its turn, at most: shorter ones
  // go first, and a longer one gets as much time as it while both run.
  double WaitSeconds(double own) const {
    return own > 0 ? std::min(backlog_seconds(), num_requests() * own) : backlog_seconds();
  }
  // Seconds of prefill behind `cached_tokens`, once it runs; 0 while the group has no prediction
  // that reaches so far.
  double PrefillSeconds(int32_t prompt_tokens, int32_t cached_tokens = 0) const {
    if (!load.cost.Reaches(prompt_tokens)) return 0;
    // The leader chooses its chunks itself; their size moves only the small terms c and g.
    constexpr int64_t kAssumedChunkTokens = 8192;
    return PredictPrefillSeconds(load.cost, cached_tokens, prompt_tokens - cached_tokens,
                                 kAssumedChunkTokens);
  }
  // Tokens of the prompt that need no prefill, as far as is known. The last one always does.
  int32_t CachedTokens(std::span<const PromptPrefix> prefixes, int32_t prompt_tokens) const {
    if (cached == nullptr || prompt_tokens < 1) return 0;
    if (limits.prefix_root_max_tokens > 0 && prompt_tokens > limits.prefix_root_max_tokens) {
      return 0;
    }
    for (const PromptPrefix& prefix : prefixes) {
      if (prefix.root != limits.prefix_root) continue;
      const auto blocks = static_cast<int32_t>(cached->CachedBlocks(prefix.chain));
      return std::min(blocks, (prompt_tokens - 1) / kKvBlockTokens) * kKvBlockTokens;
    }
    return 0;
  }
};

// The groups whose Watch stands, by address. An immutable value once published: readers hold a
// shared_ptr<const ClusterView>. Published without charges; the dispatch thread adds its own.
struct ClusterView {
  std::vector<Group> groups;
  // Leaders that stopped reporting without ending their Watch, until they say Hello again: they
  // hang, or the network does. Their streams may stay open for ever, so what runs there is lost.
  std::vector<std::string> silent;

  int32_t num_healthy() const {
    return static_cast<int32_t>(
        std::count_if(groups.begin(), groups.end(), [](const Group& g) { return g.healthy(); }));
  }
};

// KV blocks that hold `tokens`.
inline int64_t KvBlocksFor(int64_t tokens) {
  return (tokens + kKvBlockTokens - 1) / kKvBlockTokens;
}

}  // namespace longhaul::router
