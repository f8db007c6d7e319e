#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "worker/backend/backend.h"

namespace longhaul::testing {

// Hands every op on to another backend: what backends of tests change one op of.
class ForwardingBackend : public worker::backend::Backend {
 public:
  using DType = worker::DType;
  using KvLayer = worker::backend::KvLayer;
  using LinearWeight = worker::backend::LinearWeight;
  using RotaryRule = worker::backend::RotaryRule;
  using RotatedQueries = worker::backend::RotatedQueries;
  using RowPlan = worker::backend::RowPlan;
  using TensorView = worker::TensorView;
  using UnitRows = worker::backend::UnitRows;

  explicit ForwardingBackend(std::unique_ptr<worker::backend::Backend> backend)
      : backend_(std::move(backend)) {}

  DType activation_dtype() const override { return backend_->activation_dtype(); }
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
  absl::Status Finish() override { return backend_->Finish(); }
  worker::Stream StreamOf(worker::backend::Lane lane) override { return backend_->StreamOf(lane); }
  std::unique_ptr<worker::backend::Mark> MakeMark() override { return backend_->MakeMark(); }
  absl::Status Record(worker::backend::Lane lane, worker::backend::Mark& mark) override {
    return backend_->Record(lane, mark);
  }
  absl::Status Await(const worker::backend::Mark& mark, worker::backend::Lane lane) override {
    return backend_->Await(mark, lane);
  }
  absl::StatusOr<absl::Duration> Elapsed(const worker::backend::Mark& begin,
                                         const worker::backend::Mark& end) override {
    return backend_->Elapsed(begin, end);
  }
  absl::Status CopyColumns(TensorView src, TensorView dst, int64_t column) override {
    return backend_->CopyColumns(src, dst, column);
  }
  absl::Status FillNormal(const worker::backend::NormalWindow& window, double sigma,
                          TensorView out) override {
    return backend_->FillNormal(window, sigma, out);
  }
  int64_t KvLayerBlockBytes(const worker::backend::KvShape& shape) const override {
    return backend_->KvLayerBlockBytes(shape);
  }
  std::unique_ptr<RowPlan> MakeRowPlan() override { return backend_->MakeRowPlan(); }
  absl::Status PlanRows(const RotaryRule& rule, const UnitRows& rows, RowPlan& plan) override {
    return backend_->PlanRows(rule, rows, plan);
  }
  absl::Status Embed(TensorView table, const RowPlan& plan, TensorView out) override {
    return backend_->Embed(table, plan, out);
  }
  absl::Status RmsNorm(TensorView x, TensorView weight, double eps, TensorView out) override {
    return backend_->RmsNorm(x, weight, eps, out);
  }
  absl::Status Add(TensorView x, TensorView y) override { return backend_->Add(x, y); }
  absl::Status Linear(TensorView x, const LinearWeight& linear, TensorView y) override {
    return backend_->Linear(x, linear, y);
  }
  absl::Status LinearAdd(TensorView x, TensorView weight, TensorView y) override {
    return backend_->LinearAdd(x, weight, y);
  }
  absl::Status SiluMul(TensorView gate_up, TensorView out) override {
    return backend_->SiluMul(gate_up, out);
  }
  absl::Status RotateAndStore(TensorView qkv, const RowPlan& plan, const KvLayer& kv,
                              const RotatedQueries& queries) override {
    return backend_->RotateAndStore(qkv, plan, kv, queries);
  }
  absl::Status Attend(const RotatedQueries& queries, const RowPlan& plan, const KvLayer& kv,
                      TensorView out) override {
    return backend_->Attend(queries, plan, kv, out);
  }
  std::vector<absl::StatusOr<GeneratedToken>> Sample(
      std::span<const worker::backend::SampleRow> rows) override {
    return backend_->Sample(rows);
  }
  std::vector<absl::StatusOr<GeneratedToken>> Logprobs(
      std::span<const worker::backend::LogprobsRow> rows) override {
    return backend_->Logprobs(rows);
  }

 private:
  const std::unique_ptr<worker::backend::Backend> backend_;
};

}  // namespace longhaul::testing
