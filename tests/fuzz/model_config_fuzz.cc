// config.json and generation_config.json of foreign bytes: refused, or shapes that a model can
// have.
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "common/logging.h"
#include "common/model_config.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/testing/temp_dir.h"

namespace longhaul {
namespace {

void CheckRefusal(const absl::Status& status) {
  CHECK(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status)) << status;
  CHECK(!status.message().empty());
}

void CheckModel(const ModelConfig& c) {
  for (const int32_t size : {c.num_layers, c.hidden_size, c.intermediate_size, c.num_heads,
                             c.num_kv_heads, c.head_dim, c.vocab_size, c.max_position_embeddings}) {
    CHECK(size > 0) << size;
  }
  CHECK(c.num_heads % c.num_kv_heads == 0) << c.num_heads << " / " << c.num_kv_heads;
  CHECK(std::isfinite(c.rope_theta) && c.rope_theta > 0) << c.rope_theta;
  CHECK(std::isfinite(c.rms_norm_eps) && c.rms_norm_eps > 0) << c.rms_norm_eps;
  if (c.dual_chunk.has_value()) {
    CHECK(c.dual_chunk->chunk_len() > 0 && c.dual_chunk->local_size >= 0);
    CHECK(c.dual_chunk->original_max_position_embeddings >= 0);
  }
}

void CheckDefaults(const GenerationDefaults& d) {
  CHECK(d.temperature >= 0 && d.temperature <= 2) << d.temperature;
  CHECK(d.top_p > 0 && d.top_p <= 1) << d.top_p;
  CHECK(d.top_k >= 0) << d.top_k;
  CHECK(d.repetition_penalty > 0 && d.repetition_penalty <= 10) << d.repetition_penalty;
  for (const TokenId id : d.eos_token_ids) CHECK(id >= 0) << id;
}

}  // namespace
}  // namespace longhaul

// First byte C: the rest is config.json; G: generation_config.json; else a merge patch for a sound
// config.json.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace longhaul;
  static const testing::TempDir folder;
  static const nlohmann::json sound = {{"architectures", {"Qwen2ForCausalLM"}},
                                       {"model_type", "qwen2"},
                                       {"vocab_size", 2048},
                                       {"hidden_size", 256},
                                       {"intermediate_size", 768},
                                       {"num_hidden_layers", 4},
                                       {"num_attention_heads", 4},
                                       {"num_key_value_heads", 2},
                                       {"head_dim", 128},
                                       {"max_position_embeddings", 1048576},
                                       {"rope_theta", 1e6},
                                       {"rms_norm_eps", 1e-6},
                                       {"tie_word_embeddings", true},
                                       {"hidden_act", "silu"},
                                       {"eos_token_id", 2042}};
  fuzz::FuzzInput input(data, size);
  const uint8_t mode = input.Byte();
  std::string text(input.Rest());
  if (mode != 'C' && mode != 'G') {
    const auto patch = nlohmann::json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
    if (patch.is_discarded()) return -1;
    nlohmann::json config = sound;
    config.merge_patch(patch);
    text = config.dump();
  }
  folder.Write("config.json", mode == 'G' ? sound.dump() : text);
  folder.Write("generation_config.json", mode == 'G' ? text : "{}");
  const auto model = ModelConfig::Load(folder.path());
  model.ok() ? CheckModel(*model) : CheckRefusal(model.status());
  const auto defaults = GenerationDefaults::Load(folder.path());
  defaults.ok() ? CheckDefaults(*defaults) : CheckRefusal(defaults.status());
  return 0;
}
