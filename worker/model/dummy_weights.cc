#include "worker/model/dummy_weights.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <numbers>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/logging.h"
#include "common/sip_hash.h"
#include "common/status_macros.h"
#include "worker/backend/device_buffer.h"
#include "worker/model/bfloat16.h"
#include "worker/model/weight_source.h"

namespace longhaul::worker::model {
namespace {

constexpr double kSigma = 0.02;
constexpr double kMaxPreferredDistance = 6e5;
constexpr int32_t kDistantPeriod = 3;  // of this many frequencies the last one is turned to d0
constexpr std::string_view kEmbedding = "model.embed_tokens.weight";

// What the draws of random numbers on the host are for.
enum class Draw : uint64_t { kKeyPhase, kDistance, kSinkSign };

class DummyWeights final : public WeightSource {
 public:
  DummyWeights(const ModelConfig& config, const DummyRecipe& recipe, backend::Backend& backend)
      : config_(config),
        recipe_(recipe),
        backend_(backend),
        frequencies_(config.head_dim / 2),
        bias_size_(std::sqrt(recipe.bias_logit * std::sqrt(config.head_dim))) {}

  absl::Status Fill(const std::string& name, int64_t row_begin, int64_t col_begin,
                    TensorView to) override {
    const std::string_view suffix = name;
    if (suffix.ends_with("norm.weight")) return Upload(std::vector<float>(to.rows, 1.0f), to);
    if (suffix.ends_with("v_proj.bias")) return Upload(std::vector<float>(to.rows, 0.0f), to);
    if (suffix.ends_with("_proj.bias")) return FillBias(name, row_begin, to);
    const backend::NormalWindow window{.seed = recipe_.seed,
                                       .stream = SipHash128({}, name).high,
                                       .row_begin = row_begin,
                                       .col_begin = col_begin};
    RETURN_IF_ERROR(backend_.FillNormal(window, SigmaOf(name), to));
    if (suffix == kEmbedding) return AddSinks(row_begin, to);
    if (suffix.ends_with("k_proj.weight")) return MapSinks(name, row_begin, to);
    return absl::OkStatus();
  }

 private:
  // With x of unit variance, rows of deviation s give values of variance E s^2.
  double SigmaOf(std::string_view name) const {
    const double hidden = config_.hidden_size;
    const double variance = hidden * kSigma * kSigma;  // of an element of v, gate and up
    // So that attention and MLP of each layer add at most about kSigma^2 / 2L to the stream's
    // variance, which starts at kSigma^2.
    const double added = kSigma / std::sqrt(2.0 * config_.num_layers);
    if (name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight")) {
      return std::sqrt(recipe_.content_logit / hidden);
    }
    if (name.ends_with("o_proj.weight")) {  // attention that sees one value is the largest
      return added / std::sqrt(1.0 * config_.num_heads * config_.head_dim * variance);
    }
    if (name.ends_with("down_proj.weight")) {  // silu(x)^2 is less than half of x^2 on average
      return added / std::sqrt(1.0 * config_.intermediate_size * variance * variance / 2);
    }
    return kSigma;
  }

  // Uniform in [0, 1), a function of the arguments.
  double Uniform(Draw draw, std::string_view tensor, int64_t head, int64_t index) const {
    SipHasher hash(Digest{.high = recipe_.seed, .low = static_cast<uint64_t>(draw)});
    hash.UpdateWord(static_cast<uint64_t>(head));
    hash.UpdateWord(static_cast<uint64_t>(index));
    hash.Update(tensor);
    return static_cast<double>(hash.Finish().high >> 11) * 0x1p-53;
  }

  double Omega(int64_t frequency) const {
    return std::pow(config_.rope_theta, -2.0 * static_cast<double>(frequency) / config_.head_dim);
  }

  // The tensors of one layer draw the same phases: ("model.layers.3.self_attn.q_proj.bias" ->
  // "model.layers.3.").
  static std::string_view LayerOf(std::string_view name) {
    return name.substr(0, name.find("self_attn."));
  }

  std::complex<double> KeyBias(std::string_view layer, int64_t kv_head, int64_t frequency) const {
    const double turns = Uniform(Draw::kKeyPhase, layer, kv_head, frequency);
    return std::polar(bias_size_, 2 * std::numbers::pi * turns);
  }

  std::complex<double> QueryBias(std::string_view layer, int64_t head, int64_t frequency) const {
    const int64_t kv_head = head / (config_.num_heads / config_.num_kv_heads);
    const std::complex<double> key = KeyBias(layer, kv_head, frequency);
    if (frequency % kDistantPeriod != kDistantPeriod - 1) return key;
    // Rotation makes of q conj(k) at distance d: q conj(k) exp(i omega d).
    const double draw = Uniform(Draw::kDistance, layer, head, 0);
    const double distance = std::round(std::pow(kMaxPreferredDistance, draw));
    return key * std::polar(1.0, -Omega(frequency) * distance);
  }

  // Elements from `row_begin` on of the biases of all heads.
  absl::Status FillBias(const std::string& name, int64_t row_begin, TensorView to) {
    const bool of_keys = name.ends_with("k_proj.bias");
    const std::string_view layer = LayerOf(name);
    std::vector<float> values;
    for (int64_t row = row_begin; row < row_begin + to.rows; ++row) {
      const int64_t head = row / config_.head_dim;
      const int64_t frequency = row % config_.head_dim % frequencies_;
      const std::complex<double> bias =
          of_keys ? KeyBias(layer, head, frequency) : QueryBias(layer, head, frequency);
      values.push_back(static_cast<float>(PartOf(bias, row)));
    }
    return Upload(values, to);
  }

  // A head's first half holds real parts, its second one imaginary parts.
  double PartOf(std::complex<double> value, int64_t row) const {
    return row % config_.head_dim < frequencies_ ? value.real() : value.imag();
  }

  // The first of the frequencies that hardly turn.
  int64_t FirstSlow() const {
    const double reach = config_.dual_chunk.has_value() ? config_.dual_chunk->chunk_size
                                                        : config_.max_position_embeddings;
    int64_t frequency = 0;
    while (frequency < frequencies_ && Omega(frequency) * reach > 1) ++frequency;
    return std::clamp<int64_t>(frequency, 0, std::max<int64_t>(0, frequencies_ - kDistantPeriod));
  }
  static bool TakesSinks(int64_t frequency) {
    return frequency % kDistantPeriod != kDistantPeriod - 1;
  }

  // The direction of sinks is u = (+-1, ...) / sqrt(E). A sink's embedding is N(0, kSigma^2) plus
  // kSigma sqrt(E) u, which is then half of its energy.
  absl::Status AddSinks(int64_t row_begin, TensorView to) {
    const int64_t first = (row_begin + kDummySinkPeriod - 1) / kDummySinkPeriod * kDummySinkPeriod;
    for (int64_t id = first; id < row_begin + to.rows; id += kDummySinkPeriod) {
      RETURN_IF_ERROR(AddSigns(kSigma, to.Rows(id - row_begin, 1)));
    }
    return absl::OkStatus();
  }

  // After its norm a sink's x has x.u = sqrt(E / 2). Adding c b_k u^T / (x.u), of the slow part of
  // b_k, to W_k adds c b_k to its key, and c |b_k|^2 / sqrt(D) = c * (how many frequencies it has)
  // * bias_logit to its logits.
  absl::Status MapSinks(const std::string& name, int64_t row_begin, TensorView to) {
    const int64_t first = FirstSlow();
    int64_t count = 0;
    for (int64_t f = first; f < frequencies_; ++f) count += TakesSinks(f) ? 1 : 0;
    const double share = recipe_.sink_logit / (static_cast<double>(count) * recipe_.bias_logit);
    const double per_sign = share * std::sqrt(2.0) / config_.hidden_size;
    for (int64_t row = row_begin; row < row_begin + to.rows; ++row) {
      const int64_t frequency = row % config_.head_dim % frequencies_;
      if (frequency < first || !TakesSinks(frequency)) continue;
      const std::complex<double> bias = KeyBias(LayerOf(name), row / config_.head_dim, frequency);
      RETURN_IF_ERROR(AddSigns(per_sign * PartOf(bias, row), to.Rows(row - row_begin, 1)));
    }
    return absl::OkStatus();
  }

  // row += scale * sqrt(E) u, rounded once to the row's type.
  absl::Status AddSigns(double scale, TensorView row) {
    if (signs_.empty()) {
      for (int64_t i = 0; i < config_.hidden_size; ++i) {
        signs_.push_back(Uniform(Draw::kSinkSign, "", 0, i) < 0.5 ? -1.0f : 1.0f);
      }
    }
    CHECK(row.size() == config_.hidden_size) << "cols=" << row.cols;
    if (added_.bytes() < row.bytes()) {
      ASSIGN_OR_RETURN(added_, backend_.Allocate(row.bytes()));
    }
    std::vector<float> values = signs_;
    for (float& value : values) value *= static_cast<float>(scale);
    const TensorView added{added_.data(), row.dtype, 1, row.cols};
    RETURN_IF_ERROR(Upload(values, added));
    return backend_.Add(row, added);
  }

  absl::Status Upload(const std::vector<float>& values, TensorView to) {
    CHECK(static_cast<int64_t>(values.size()) == to.size()) << "values=" << values.size();
    if (to.dtype == DType::kFloat32) return backend_.CopyToDevice(values.data(), to);
    std::vector<uint16_t> rounded(values.size());
    std::transform(values.begin(), values.end(), rounded.begin(), FloatToBFloat16);
    return backend_.CopyToDevice(rounded.data(), to);
  }

  const ModelConfig& config_;
  const DummyRecipe recipe_;
  backend::Backend& backend_;
  const int64_t frequencies_;    // D / 2
  const double bias_size_;       // |b_q| = |b_k|: bias_size_^2 / sqrt(D) = bias_logit
  std::vector<float> signs_;     // sqrt(E) u, once needed
  backend::DeviceBuffer added_;  // [1, E]
};

}  // namespace

absl::StatusOr<Weights> MakeDummyWeights(const ModelConfig& config, const WeightRange& range,
                                         backend::Backend& backend, const DummyRecipe& recipe) {
  CHECK(recipe.bias_logit > 0) << "bias_logit=" << recipe.bias_logit;  // sinks are told by biases
  DummyWeights source(config, recipe, backend);
  return MakeWeights(config, range, source, backend);
}

}  // namespace longhaul::worker::model
