#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "common/model_config.h"
#include "common/types.h"
#include "worker/backend/backend.h"
#include "worker/model/weights.h"

namespace longhaul::worker::model {

// What random weights are to make of attention. A logit is a query times a key, over sqrt(D), of
// head dimension D. Queries and keys are content (W x, x being of unit variance after its norm)
// plus biases.
struct DummyRecipe {
  uint64_t seed = 20'261'123;
  // Deviation of a logit of content and content: the weights of q and k have a variance of
  // content_logit / E, so that those of a query's and a key's elements have it as their product.
  double content_logit = 1;
  // What each of the D / 2 rotary frequencies adds to the logit at the distance that it prefers.
  // There it has biases of equal size for queries and keys.
  double bias_logit = 0.15;  // > 0
  // What a key of a sink adds to its logit, for any query, wherever it is.
  double sink_logit = 4;
};

// Every so many ids one is a sink, 0.5% of a vocabulary, from id 0 on. Prompts for benchmarks have
// them in their first 30 positions, and where chance puts them.
inline constexpr TokenId kDummySinkPeriod = 200;

// Weights for benchmarks of long prompts, made in seconds where they are used: random, but of an
// attention that is neither flat nor alike everywhere.
// - Matrices are N(0, 0.02^2), but for those of queries and keys (above), and for those that write
//   to the residual stream: they are smaller, so that its variance at most about doubles over all
//   layers, and what an embedding has brought is still seen by the last one. Norms are 1.
// - Biases of q and k are complex numbers, one a rotary frequency f (elements f and f + D / 2 of a
//   head), of one magnitude. Those of a KV head have random phases. Those of its query heads have
//   the same, so that they prefer small distances; but in every third frequency (f = 2, 5, ...)
//   they are turned back by omega_f d0, so that the logit is greatest at distance d0, log-uniform
//   within [1, 600,000], drawn for each query head. The bias of v is zero.
// - Sinks: their embeddings have a common direction besides, of as much energy as the rest. W_k
//   maps it to the biases of the frequencies that turn by at most one radian over all distances
//   (at least the last three), those with a d0 left out: so all queries of a group see it alike.
//   Its weight counts on a stream that is the embedding; it fades by what layers add to the stream.
// An element depends on recipe, configuration and its place in its tensor alone: not on how many
// shards or stages there are. Errors: those of MakeWeights.
absl::StatusOr<Weights> MakeDummyWeights(const ModelConfig& config, const WeightRange& range,
                                         backend::Backend& backend, const DummyRecipe& recipe = {});

}  // namespace longhaul::worker::model
