#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "worker/backend/backend.h"

namespace longhaul::testing {

// A CPU backend whose ops find NaN in what they are to write, and whose logits are NaN once they
// have been used: an element that is not written, or is left over from an earlier call, shows.
class PoisoningBackend final : public worker::backend::Backend {
 public:
  using TensorView = worker::TensorView;

  explicit PoisoningBackend(std::unique_ptr<worker::backend::Backend> backend)
      : backend_(std::move(backend)) {}

  absl::StatusOr<worker::backend::DeviceBuffer> Allocate(int64_t bytes) override {
    return backend_->Allocate(bytes);
  }
  std::string HardwareName() const override { return backend_->HardwareName(); }
  int64_t FreeMemoryBytes() const override { return backend_->FreeMemoryBytes(); }
  absl::Status CopyToDevice(const void* host, TensorView dst) override {
    return backend_->CopyToDevice(host, dst);
  }
  absl::Status CopyToHost(TensorView src, void* host) override {
    return backend_->CopyToHost(src, host);
  }
  absl::Status CopyColumns(TensorView src, TensorView dst, int64_t column) override {
    return backend_->CopyColumns(src, dst, column);
  }
  int64_t KvLayerBlockBytes(const worker::backend::KvShape& shape) const override {
    return backend_->KvLayerBlockBytes(shape);
  }
  absl::Status Embed(TensorView table, std::span<const TokenId> ids, TensorView out) override {
    Poison({out});
    return backend_->Embed(table, ids, out);
  }
  absl::Status RmsNorm(TensorView x, TensorView residual, TensorView weight, double eps,
                       TensorView out) override {
    Poison({out});
    return backend_->RmsNorm(x, residual, weight, eps, out);
  }
  absl::Status Add(TensorView x, TensorView y) override { return backend_->Add(x, y); }
  absl::Status Linear(TensorView x, const worker::backend::LinearWeight& linear,
                      TensorView y) override {
    Poison({y});
    return backend_->Linear(x, linear, y);
  }
  absl::Status SiluMul(TensorView gate_up, TensorView out) override {
    Poison({out});
    return backend_->SiluMul(gate_up, out);
  }
  absl::Status ComputeRotary(const worker::backend::RotaryRule& rule,
                             std::span<const worker::backend::SequenceRows> rows,
                             const worker::backend::RotaryTables& tables) override {
    for (const auto& angles : {tables.intra, tables.succ, tables.inter}) {
      Poison({angles.cos, angles.sin});
    }
    return backend_->ComputeRotary(rule, rows, tables);
  }
  absl::Status RotateAndStore(TensorView qkv, TensorView query_scale,
                              const worker::backend::RotaryRule& rule,
                              const worker::backend::RotaryTables& tables,
                              std::span<const worker::backend::SequenceRows> rows,
                              const worker::backend::KvLayer& kv,
                              const worker::backend::RotatedQueries& queries) override {
    Poison({queries.intra.Rows(0, qkv.rows), queries.succ.Rows(0, qkv.rows),
            queries.inter.Rows(0, qkv.rows)});
    return backend_->RotateAndStore(qkv, query_scale, rule, tables, rows, kv, queries);
  }
  absl::Status Attend(const worker::backend::RotatedQueries& queries,
                      const worker::backend::RotaryRule& rule,
                      std::span<const worker::backend::SequenceRows> rows,
                      const worker::backend::KvLayer& kv, TensorView out) override {
    Poison({out});
    return backend_->Attend(queries, rule, rows, kv, out);
  }
  std::vector<absl::StatusOr<GeneratedToken>> Sample(
      std::span<const worker::backend::SampleRow> rows) override {
    auto tokens = backend_->Sample(rows);
    for (const auto& row : rows) Poison({row.logits});
    return tokens;
  }
  std::vector<absl::StatusOr<GeneratedToken>> Logprobs(
      std::span<const worker::backend::LogprobsRow> rows) override {
    auto tokens = backend_->Logprobs(rows);
    for (const auto& row : rows) Poison({row.logits});
    return tokens;
  }

 private:
  static void Poison(std::initializer_list<TensorView> outputs) {
    for (const TensorView& out : outputs) {
      std::fill_n(out.f32(), out.size(), std::numeric_limits<float>::quiet_NaN());
    }
  }

  const std::unique_ptr<worker::backend::Backend> backend_;
};

}  // namespace longhaul::testing
