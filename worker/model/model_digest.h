#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/types.h"

namespace longhaul::worker::model {

// Identity of the model in a directory: its config.json, every tensor's name, type and shape, and
// up to 8 KiB of each tensor's content (a few MB in all, whatever the model's size). How the
// tensors are spread over files does not matter. Two models that differ in a few weights only may
// have the same digest: it tells models apart, it does not authenticate them. Errors: those of
// Checkpoint::Open; kNotFound if there is no config.json.
absl::StatusOr<Digest> ModelDigest(const std::string& model_dir);

// The same for a model with dummy weights, which follow from config.json: that and tokenizer.json,
// if there is one. No other model has such a digest.
absl::StatusOr<Digest> DummyModelDigest(const std::string& model_dir);

}  // namespace longhaul::worker::model
