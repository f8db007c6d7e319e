#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/types.h"

namespace longhaul {

// Everything besides tokens that decides the bytes of a KV block.
struct PrefixIdentity {
  Digest model;                // ModelDigest
  std::string kv_dtype;        // "fp32", "bf16", ...
  std::string attention_mode;  // "dca", "rope", later "dca-sparse"
  Digest attention_settings;   // of the mode's parameters; zero if it has none
  std::string temperature;     // "position" or "request"
};

// Identity of a prefix: a chain in which each complete KV block's hash is keyed by its parent's.
//
//   root = PrefixRoot(identity); root = SaltPrefix(root, tenant_salt); [LengthPrefix(root, f)]
//   block i = ExtendPrefix(block i-1, tokens of block i)
//
// The hash is SipHash-2-4-128 (sip_hash.h). 128 bits make an accident impossible in practice, and a
// tenant's salt (an HMAC that only the cluster can make) keeps another tenant from guessing
// identities. Reuse still compares token ids.
Digest PrefixRoot(const PrefixIdentity& identity);

// `salt`: 0 or 16 bytes; an empty one leaves the root as it is.
Digest SaltPrefix(const Digest& root, std::string_view salt);

// Temperature mode `request` above original_max_position_embeddings: KV depends on the request's
// length through the factor f, so f's bits enter the root.
Digest LengthPrefix(const Digest& root, float temperature_factor);

// `block`: the tokens of one complete KV block.
Digest ExtendPrefix(const Digest& parent, std::span<const TokenId> block);

// Identities of the complete blocks of `tokens`; a partial last block has none.
std::vector<Digest> PrefixChain(const Digest& root, std::span<const TokenId> tokens);

}  // namespace longhaul
