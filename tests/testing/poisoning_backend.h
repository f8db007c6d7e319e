#pragma once

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <span>
#include <vector>

#include "tests/testing/forwarding_backend.h"

namespace longhaul::testing {

// A CPU backend whose ops find NaN in what they are to write, and whose logits are NaN once they
// have been used: an element that is not written, or is left over from an earlier call, shows.
class PoisoningBackend final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  absl::Status Embed(TensorView table, const RowPlan& plan, TensorView out) override {
    Poison({out});
    return ForwardingBackend::Embed(table, plan, out);
  }
  absl::Status RmsNorm(TensorView x, TensorView weight, double eps, TensorView out) override {
    Poison({out});
    return ForwardingBackend::RmsNorm(x, weight, eps, out);
  }
  absl::Status Linear(TensorView x, const LinearWeight& linear, TensorView y) override {
    Poison({y});
    return ForwardingBackend::Linear(x, linear, y);
  }
  absl::Status SiluMul(TensorView gate_up, TensorView out) override {
    Poison({out});
    return ForwardingBackend::SiluMul(gate_up, out);
  }
  absl::Status RotateAndStore(TensorView qkv, const RowPlan& plan, const KvLayer& kv,
                              const RotatedQueries& queries) override {
    Poison({queries.intra.Rows(0, qkv.rows), queries.succ.Rows(0, qkv.rows),
            queries.inter.Rows(0, qkv.rows)});
    return ForwardingBackend::RotateAndStore(qkv, plan, kv, queries);
  }
  absl::Status Attend(const RotatedQueries& queries, const RowPlan& plan, const KvLayer& kv,
                      TensorView out) override {
    Poison({out});
    return ForwardingBackend::Attend(queries, plan, kv, out);
  }
  std::vector<absl::StatusOr<GeneratedToken>> Sample(
      std::span<const worker::backend::SampleRow> rows) override {
    auto tokens = ForwardingBackend::Sample(rows);
    for (const auto& row : rows) Poison({row.logits});
    return tokens;
  }
  std::vector<absl::StatusOr<GeneratedToken>> Logprobs(
      std::span<const worker::backend::LogprobsRow> rows) override {
    auto tokens = ForwardingBackend::Logprobs(rows);
    for (const auto& row : rows) Poison({row.logits});
    return tokens;
  }

 private:
  static void Poison(std::initializer_list<TensorView> outputs) {
    for (const TensorView& out : outputs) {
      std::fill_n(out.f32(), out.size(), std::numeric_limits<float>::quiet_NaN());
    }
  }
};

}  // namespace longhaul::testing
