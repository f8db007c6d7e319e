#include "worker/backend/cuda_sampling.h"

#include <cstring>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/logprobs/logprobs_cuda.h"
#include "kernels/sampling/sampling_cuda.h"
#include "worker/backend/cuda_status.h"
#include "worker/backend/kernel_status.h"
#include "worker/backend/sampled_token.h"

namespace longhaul::worker::backend {
namespace {

using kernels::LogprobsCudaResult;
using kernels::LogprobsCudaRow;
using kernels::SamplingCudaResult;
using kernels::SamplingCudaRow;

static_assert(std::is_trivially_copyable_v<SamplingCudaResult> &&
              std::is_trivially_copyable_v<LogprobsCudaResult>);

// Where arrays lie in a block of bytes. Without one (null) it only counts what they take.
class Block {
 public:
  Block(uint8_t* host, uint8_t* device) : host_(host), device_(device) {}

  // Copies `count` values, which may be none (null is returned then), and tells where they will be
  // on the device.
  template <typename T>
  T* Put(const T* values, size_t count) {
    if (count == 0) return nullptr;
    const size_t offset = bytes_;
    bytes_ += (count * sizeof(T) + 15) / 16 * 16;
    if (host_ == nullptr) return nullptr;
    std::memcpy(host_ + offset, values, count * sizeof(T));
    return reinterpret_cast<T*>(device_ + offset);
  }
  size_t bytes() const { return bytes_; }

 private:
  uint8_t* const host_;
  uint8_t* const device_;
  size_t bytes_ = 0;
};

SamplingCudaRow PutRow(const SampleRow& row, Block& block) {
  const SamplingParams& wanted = *row.params;
  std::vector<int32_t> bias_ids;
  std::vector<float> bias_values;
  for (const auto& [id, bias] : wanted.logit_bias) {
    bias_ids.push_back(id);
    bias_values.push_back(bias);
  }
  return {.logits = row.logits.f32(),
          .temperature = wanted.temperature,
          .top_k = wanted.top_k,
          .top_p = wanted.top_p,
          .min_p = wanted.min_p,
          .repetition_penalty = wanted.repetition_penalty,
          .presence_penalty = wanted.presence_penalty,
          .frequency_penalty = wanted.frequency_penalty,
          .num_top_logprobs = wanted.top_logprobs.value_or(0),
          .uniform = kernels::SamplingUniform(wanted.seed, row.output_index),
          .seen = block.Put(row.seen.data(), row.seen.size()),
          .counts = block.Put(row.output_counts.data(), row.output_counts.size()),
          .bias_ids = block.Put(bias_ids.data(), bias_ids.size()),
          .bias_values = block.Put(bias_values.data(), bias_values.size()),
          .banned_ids = block.Put(row.banned.data(), row.banned.size()),
          .num_bias = static_cast<int32_t>(bias_ids.size()),
          .num_banned = static_cast<int32_t>(row.banned.size())};
}

template <typename Row>
absl::StatusOr<int32_t> CommonVocabulary(std::span<const Row> rows) {
  const int64_t cols = rows.front().logits.cols;
  for (const Row& row : rows) {
    if (row.logits.cols != cols) {
      return absl::InternalError(
          absl::StrCat("rows of ", cols, " and of ", row.logits.cols, " logits in one call"));
    }
  }
  if (cols > kernels::kMaxCudaVocab) {
    return absl::UnimplementedError(absl::StrCat("sampling from ", cols, " tokens, limit ",
                                                 kernels::kMaxCudaVocab, " on CUDA devices"));
  }
  return static_cast<int32_t>(cols);
}

}  // namespace

CudaSampling::Tokens CudaSampling::Sample(std::span<const SampleRow> rows, cudaStream_t stream) {
  if (rows.empty()) return {};
  const absl::Status status = RunSampling(rows, stream);
  if (!status.ok()) return Tokens(rows.size(), status);
  Tokens tokens;
  for (size_t i = 0; i < rows.size(); ++i) {
    SamplingCudaResult result;
    std::memcpy(&result, reinterpret_cast<const uint8_t*>(results_.data()) + i * sizeof(result),
                sizeof(result));
    tokens.push_back(SampledToken(result.status, result.result, rows[i]));
  }
  return tokens;
}

absl::Status CudaSampling::RunSampling(std::span<const SampleRow> rows, cudaStream_t stream) {
  ASSIGN_OR_RETURN(const int32_t vocab_size, CommonVocabulary(rows));
  const int32_t num_rows = static_cast<int32_t>(rows.size());
  std::vector<SamplingCudaRow> device_rows(rows.size());
  // The rows come first, and are known when all else has its place.
  const auto fill = [&](Block& block) {
    block.Put(device_rows.data(), device_rows.size());
    for (size_t i = 0; i < rows.size(); ++i) device_rows[i] = PutRow(rows[i], block);
  };
  Block count(nullptr, nullptr);
  fill(count);
  const int64_t bytes = static_cast<int64_t>(count.bytes());
  RETURN_IF_ERROR(upload_.Reserve(bytes));
  RETURN_IF_ERROR(inputs_.Reserve(bytes, stream));
  Block block(upload_.data(), inputs_.data());
  fill(block);
  std::memcpy(upload_.data(), device_rows.data(), device_rows.size() * sizeof(SamplingCudaRow));
  RETURN_IF_ERROR(upload_.Send(bytes, inputs_.data(), stream));

  const size_t result_bytes = rows.size() * sizeof(SamplingCudaResult);
  RETURN_IF_ERROR(device_results_.Reserve(static_cast<int64_t>(result_bytes), stream));
  RETURN_IF_ERROR(workspace_.Reserve(
      static_cast<int64_t>(kernels::SamplingCudaWorkspaceBytes(vocab_size, num_rows)), stream));
  const kernels::SamplingCudaParams params = {
      .rows = reinterpret_cast<const SamplingCudaRow*>(inputs_.data()),
      .num_rows = num_rows,
      .vocab_size = vocab_size,
      .workspace = workspace_.data(),
      .results = reinterpret_cast<SamplingCudaResult*>(device_results_.data())};
  RETURN_IF_ERROR(Launched(kernels::SamplingCuda(params, {stream}), "sampling",
                           absl::StrCat(num_rows, " rows, vocabulary ", vocab_size)));
  return Download(result_bytes, stream);
}

CudaSampling::Tokens CudaSampling::Logprobs(std::span<const LogprobsRow> rows,
                                            cudaStream_t stream) {
  if (rows.empty()) return {};
  const absl::Status status = RunLogprobs(rows, stream);
  if (!status.ok()) return Tokens(rows.size(), status);
  Tokens tokens;
  for (size_t i = 0; i < rows.size(); ++i) {
    LogprobsCudaResult result;
    std::memcpy(&result, reinterpret_cast<const uint8_t*>(results_.data()) + i * sizeof(result),
                sizeof(result));
    tokens.push_back(ScoredToken(result.status, result.logprobs, rows[i]));
  }
  return tokens;
}

absl::Status CudaSampling::RunLogprobs(std::span<const LogprobsRow> rows, cudaStream_t stream) {
  ASSIGN_OR_RETURN(const int32_t vocab_size, CommonVocabulary(rows));
  const int32_t num_rows = static_cast<int32_t>(rows.size());
  const int64_t bytes = static_cast<int64_t>(rows.size() * sizeof(LogprobsCudaRow));
  RETURN_IF_ERROR(upload_.Reserve(bytes));
  RETURN_IF_ERROR(inputs_.Reserve(bytes, stream));
  for (size_t i = 0; i < rows.size(); ++i) {
    const LogprobsCudaRow row = {
        .logits = rows[i].logits.f32(), .token = rows[i].token, .num_top = rows[i].num_top};
    std::memcpy(upload_.data() + i * sizeof(row), &row, sizeof(row));
  }
  RETURN_IF_ERROR(upload_.Send(bytes, inputs_.data(), stream));

  const size_t result_bytes = rows.size() * sizeof(LogprobsCudaResult);
  RETURN_IF_ERROR(device_results_.Reserve(static_cast<int64_t>(result_bytes), stream));
  RETURN_IF_ERROR(workspace_.Reserve(
      static_cast<int64_t>(kernels::LogprobsCudaWorkspaceBytes(vocab_size, num_rows)), stream));
  const kernels::LogprobsCudaParams params = {
      .rows = reinterpret_cast<const LogprobsCudaRow*>(inputs_.data()),
      .num_rows = num_rows,
      .vocab_size = vocab_size,
      .workspace = workspace_.data(),
      .results = reinterpret_cast<LogprobsCudaResult*>(device_results_.data())};
  RETURN_IF_ERROR(Launched(kernels::LogprobsCuda(params, {stream}), "logprobs",
                           absl::StrCat(num_rows, " rows, vocabulary ", vocab_size)));
  return Download(result_bytes, stream);
}

absl::Status CudaSampling::Download(size_t bytes, cudaStream_t stream) {
  results_.resize((bytes + 7) / 8);
  RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(results_.data(), device_results_.data(), bytes,
                                             cudaMemcpyDeviceToHost, stream),
                             absl::StrCat("copy of ", bytes, " bytes from the device")));
  return CudaStatus(cudaStreamSynchronize(stream), "the step's work on the device");
}

}  // namespace longhaul::worker::backend
