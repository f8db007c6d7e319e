#include "worker/model/weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cstring>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "tests/testing/forwarding_backend.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"
#include "worker/backend/cpu_backend.h"

namespace longhaul::worker::model {
namespace {

using ::longhaul::testing::StatusIs;
using ::longhaul::testing::TempDir;
using ::longhaul::testing::TinyModel;
using ::testing::HasSubstr;

constexpr int64_t kHidden = 96;  // of the tiny model

// A device whose activations are bf16: host memory that nothing is computed in.
class BFloat16Backend final : public ::longhaul::testing::ForwardingBackend {
 public:
  BFloat16Backend() : ForwardingBackend(backend::MakeCpuBackend(1)) {}
  DType activation_dtype() const override { return DType::kBFloat16; }
};

// As fp32.
std::vector<float> HostBFloat16(TensorView tensor) {
  EXPECT_EQ(tensor.dtype, DType::kBFloat16);
  const uint16_t* bits = static_cast<const uint16_t*>(tensor.data);
  std::vector<float> values;
  for (int64_t i = 0; i < tensor.size(); ++i) {
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits[i]) << 16));
  }
  return values;
}

std::vector<float> Host(TensorView tensor) { return {tensor.f32(), tensor.f32() + tensor.size()}; }

class WeightsTest : public ::testing::Test {
 protected:
  absl::StatusOr<Weights> Load(const TinyModel& model, const WeightRange& range) {
    const TempDir folder;
    model.Write(folder.path());
    const auto checkpoint = Checkpoint::Open(folder.path());
    RETURN_IF_ERROR(checkpoint);
    return LoadWeights(model.Config(), *checkpoint, range, *backend_);
  }
  const std::unique_ptr<backend::Backend> backend_ = backend::MakeCpuBackend(1);
  const WeightRange all_{.layer_begin = 0, .layer_end = 3};
};

TEST_F(WeightsTest, AreTheStoredValuesForEveryTypeAndSharding) {
  for (const StoredType type : {StoredType::kF32, StoredType::kBF16, StoredType::kF16}) {
    const TinyModel model{.num_files = type == StoredType::kF32 ? 1 : 4, .type = type};
    ASSERT_OK_AND_ASSIGN(const Weights weights, Load(model, all_));
    EXPECT_EQ(Host(weights.embedding), model.Values("model.embed_tokens.weight", 300 * kHidden));
    EXPECT_EQ(Host(weights.lm_head.weight), model.Values("lm_head.weight", 300 * kHidden));
    EXPECT_EQ(Host(weights.final_norm), model.Values("model.norm.weight", kHidden));
    ASSERT_EQ(weights.layers.size(), 3u);
    EXPECT_EQ(Host(weights.layers[2].down.weight),
              model.Values("model.layers.2.mlp.down_proj.weight", kHidden * 160));
  }
}

TEST_F(WeightsTest, TakeTheTypeOfTheDeviceButThoseOfNorms) {
  BFloat16Backend device;
  for (const StoredType type : {StoredType::kF32, StoredType::kBF16, StoredType::kF16}) {
    const TinyModel model{.type = type};
    const TempDir folder;
    model.Write(folder.path());
    ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder.path()));
    ASSERT_OK_AND_ASSIGN(const Weights weights,
                         LoadWeights(model.Config(), checkpoint, all_, device));
    EXPECT_EQ(HostBFloat16(weights.embedding),
              model.Values("model.embed_tokens.weight", 300 * kHidden));
    const Weights::Layer& layer = weights.layers[2];
    EXPECT_EQ(HostBFloat16(layer.out.weight),
              model.Values("model.layers.2.self_attn.o_proj.weight", kHidden * 192));
    EXPECT_EQ(HostBFloat16(layer.qkv.bias.Rows(0, 1)).size(), 320u);
    EXPECT_EQ(layer.post_attention_norm.dtype, DType::kFloat32);
    EXPECT_EQ(Host(layer.post_attention_norm),
              model.Values("model.layers.2.post_attention_layernorm.weight", kHidden));
    EXPECT_EQ(Host(weights.final_norm), model.Values("model.norm.weight", kHidden));
    EXPECT_EQ(weights.bytes, WeightBytes(model.Config(), all_, DType::kBFloat16));
  }
}

TEST_F(WeightsTest, AreRoundedToTheNearestWithTiesToEven) {
  constexpr std::pair<uint32_t, uint16_t> kCases[] = {{0x3f808000, 0x3f80}, {0x3f818000, 0x3f82},
                                                      {0x3f808001, 0x3f81}, {0xbf808001, 0xbf81},
                                                      {0x7f7fffff, 0x7f80}, {0x7f800001, 0x7fc0}};
  const TinyModel model;
  const TempDir folder;
  model.Write(folder.path());
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder.path()));
  // The mapping is private: what is written there stays out of the file.
  const std::span<const uint8_t> data =
      checkpoint.entries().find("model.embed_tokens.weight")->second.tensor->data;
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = std::bit_cast<uintptr_t>(data.data()) / page * page;
  ASSERT_EQ(mprotect(std::bit_cast<void*>(begin), 2 * page, PROT_READ | PROT_WRITE), 0);
  for (size_t i = 0; i < std::size(kCases); ++i) {
    std::memcpy(const_cast<uint8_t*>(data.data()) + 4 * i, &kCases[i].first, 4);
  }
  BFloat16Backend device;
  ASSERT_OK_AND_ASSIGN(const Weights weights,
                       LoadWeights(model.Config(), checkpoint, all_, device));
  for (size_t i = 0; i < std::size(kCases); ++i) {
    EXPECT_EQ(static_cast<const uint16_t*>(weights.embedding.data)[i], kCases[i].second) << i;
  }
}

TEST_F(WeightsTest, BytesAreKnownBeforehand) {
  TinyModel model;
  model.num_kv_heads = 2;
  model.vocab_size = 301;
  for (const bool tied : {false, true}) {
    model.tied = tied;
    for (const WeightRange& range :
         {WeightRange{.layer_end = 3}, WeightRange{.layer_begin = 1, .layer_end = 2},
          WeightRange{.layer_begin = 2, .layer_end = 3},
          WeightRange{.layer_end = 3, .tensor_parallel_rank = 1, .tensor_parallel_size = 2}}) {
      ASSERT_OK_AND_ASSIGN(const Weights weights, Load(model, range));
      EXPECT_EQ(WeightBytes(model.Config(), range, DType::kFloat32), weights.bytes);
    }
  }
}

TEST_F(WeightsTest, StackQueriesKeysAndValuesAndGateAndUp) {
  const TinyModel model;
  ASSERT_OK_AND_ASSIGN(const Weights weights, Load(model, all_));
  const auto stacked = [&](std::initializer_list<std::pair<const char*, int64_t>> parts) {
    std::vector<float> all;
    for (const auto& [suffix, size] : parts) {
      const auto values = model.Values(std::string("model.layers.1.") + suffix, size);
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  const Weights::Layer& layer = weights.layers[1];
  EXPECT_EQ(layer.qkv.weight.rows, (3 + 2) * 64);
  EXPECT_EQ(Host(layer.qkv.weight), stacked({{"self_attn.q_proj.weight", 192 * kHidden},
                                             {"self_attn.k_proj.weight", 64 * kHidden},
                                             {"self_attn.v_proj.weight", 64 * kHidden}}));
  EXPECT_EQ(Host(layer.qkv.bias), stacked({{"self_attn.q_proj.bias", 192},
                                           {"self_attn.k_proj.bias", 64},
                                           {"self_attn.v_proj.bias", 64}}));
  EXPECT_EQ(Host(layer.gate_up.weight), stacked({{"mlp.gate_proj.weight", 160 * kHidden},
                                                 {"mlp.up_proj.weight", 160 * kHidden}}));
}

TEST_F(WeightsTest, AStageHoldsItsLayersOnly) {
  const TinyModel model;
  ASSERT_OK_AND_ASSIGN(const Weights first, Load(model, {.layer_begin = 0, .layer_end = 1}));
  EXPECT_NE(first.embedding.data, nullptr);
  EXPECT_EQ(first.final_norm.data, nullptr);
  EXPECT_EQ(first.lm_head.weight.data, nullptr);
  EXPECT_EQ(first.layers.size(), 1u);
  ASSERT_OK_AND_ASSIGN(const Weights last, Load(model, {.layer_begin = 1, .layer_end = 3}));
  EXPECT_EQ(last.embedding.data, nullptr);
  EXPECT_EQ(Host(last.layers[0].out.weight),
            model.Values("model.layers.1.self_attn.o_proj.weight", kHidden * 192));
  ASSERT_OK_AND_ASSIGN(const Weights whole, Load(model, all_));
  EXPECT_EQ(first.bytes + last.bytes, whole.bytes);
}

TEST_F(WeightsTest, ATiedHeadIsTheEmbedding) {
  const TinyModel model{.tied = true};
  ASSERT_OK_AND_ASSIGN(const Weights whole, Load(model, all_));
  EXPECT_EQ(whole.lm_head.weight.data, whole.embedding.data);
  ASSERT_OK_AND_ASSIGN(const Weights last, Load(model, {.layer_begin = 2, .layer_end = 3}));
  EXPECT_EQ(last.embedding.data, nullptr);
  EXPECT_EQ(Host(last.lm_head.weight), model.Values("model.embed_tokens.weight", 300 * kHidden));
}

TEST_F(WeightsTest, RefuseRangesOutsideTheModel) {
  EXPECT_THAT(Load({}, {.layer_begin = 0, .layer_end = 4}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("[0, 4)")));
  EXPECT_THAT(Load({}, {.layer_begin = 2, .layer_end = 2}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("[2, 2)")));
  EXPECT_THAT(Load({}, {.layer_end = 3, .tensor_parallel_size = 2}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1 KV heads")));
}

// Rows or columns [begin, end) of a matrix.
std::vector<float> Rows(const std::vector<float>& matrix, int64_t cols, int64_t begin,
                        int64_t end) {
  return {matrix.begin() + begin * cols, matrix.begin() + end * cols};
}
std::vector<float> Columns(const std::vector<float>& matrix, int64_t cols, int64_t begin,
                           int64_t end) {
  std::vector<float> part;
  for (auto row = matrix.begin(); row != matrix.end(); row += cols) {
    part.insert(part.end(), row + begin, row + end);
  }
  return part;
}
std::vector<float> Joined(std::initializer_list<std::vector<float>> parts) {
  std::vector<float> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

// Six query heads, two KV heads, 301 tokens: two shards of 150 and 151.
constexpr TinyModel kTwoHeads{.num_kv_heads = 2, .vocab_size = 301};

TEST_F(WeightsTest, AShardHoldsItsHeadsItsPartOfTheMlpAndItsTokens) {
  const auto values = [](const char* suffix, int64_t size) {
    return kTwoHeads.Values(std::string("model.layers.1.") + suffix, size);
  };
  for (int32_t rank = 0; rank < 2; ++rank) {
    ASSERT_OK_AND_ASSIGN(
        const Weights weights,
        Load(kTwoHeads, {.layer_end = 3, .tensor_parallel_rank = rank, .tensor_parallel_size = 2}));
    const Weights::Layer& layer = weights.layers[1];
    const int64_t q = int64_t{192} * rank;
    const int64_t kv = int64_t{64} * rank;
    const int64_t inner = int64_t{80} * rank;
    EXPECT_EQ(
        Host(layer.qkv.weight),
        Joined({Rows(values("self_attn.q_proj.weight", 384 * kHidden), kHidden, q, q + 192),
                Rows(values("self_attn.k_proj.weight", 128 * kHidden), kHidden, kv, kv + 64),
                Rows(values("self_attn.v_proj.weight", 128 * kHidden), kHidden, kv, kv + 64)}));
    EXPECT_EQ(Host(layer.qkv.bias),
              Joined({Rows(values("self_attn.q_proj.bias", 384), 1, q, q + 192),
                      Rows(values("self_attn.k_proj.bias", 128), 1, kv, kv + 64),
                      Rows(values("self_attn.v_proj.bias", 128), 1, kv, kv + 64)}));
    EXPECT_EQ(Host(layer.out.weight),
              Columns(values("self_attn.o_proj.weight", kHidden * 384), 384, q, q + 192));
    EXPECT_EQ(
        Host(layer.gate_up.weight),
        Joined({Rows(values("mlp.gate_proj.weight", 160 * kHidden), kHidden, inner, inner + 80),
                Rows(values("mlp.up_proj.weight", 160 * kHidden), kHidden, inner, inner + 80)}));
    EXPECT_EQ(Host(layer.down.weight),
              Columns(values("mlp.down_proj.weight", kHidden * 160), 160, inner, inner + 80));
    EXPECT_EQ(Host(layer.input_norm), values("input_layernorm.weight", kHidden));
    const int64_t begin = int64_t{150} * rank;
    const int64_t end = rank == 0 ? 150 : 301;
    EXPECT_EQ(Host(weights.lm_head.weight),
              Rows(kTwoHeads.Values("lm_head.weight", 301 * kHidden), kHidden, begin, end));
    // Then the row of the other shard's tokens.
    EXPECT_EQ(Host(weights.embedding),
              Joined({Rows(kTwoHeads.Values("model.embed_tokens.weight", 301 * kHidden), kHidden,
                           begin, end),
                      std::vector<float>(kHidden, 0.0f)}));
  }
}

TEST_F(WeightsTest, AShardsTiedHeadIsItsEmbeddingWithoutTheZeros) {
  TinyModel model = kTwoHeads;
  model.tied = true;
  ASSERT_OK_AND_ASSIGN(
      const Weights whole,
      Load(model, {.layer_end = 3, .tensor_parallel_rank = 1, .tensor_parallel_size = 2}));
  EXPECT_EQ(whole.lm_head.weight.data, whole.embedding.data);
  EXPECT_EQ(whole.lm_head.weight.rows, 151);
  EXPECT_EQ(whole.embedding.rows, 152);
  ASSERT_OK_AND_ASSIGN(const Weights last, Load(model, {.layer_begin = 2,
                                                        .layer_end = 3,
                                                        .tensor_parallel_rank = 1,
                                                        .tensor_parallel_size = 2}));
  EXPECT_EQ(Host(last.lm_head.weight),
            Rows(model.Values("model.embed_tokens.weight", 301 * kHidden), kHidden, 150, 301));
}

TEST_F(WeightsTest, ShardsTogetherHoldTheModelOnce) {
  ASSERT_OK_AND_ASSIGN(const Weights whole, Load(kTwoHeads, all_));
  int64_t bytes = 0;
  for (int32_t rank = 0; rank < 2; ++rank) {
    ASSERT_OK_AND_ASSIGN(
        const Weights weights,
        Load(kTwoHeads, {.layer_end = 3, .tensor_parallel_rank = rank, .tensor_parallel_size = 2}));
    bytes += weights.bytes;
  }
  // But for seven norms, which both hold, and a row of zeros each.
  EXPECT_EQ(bytes, whole.bytes + (7 + 2) * kHidden * 4);
}

// Takes away the pages of a mapped file that hold nothing but these bytes.
void MakeUnreadable(std::span<const uint8_t> bytes) {
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (std::bit_cast<uintptr_t>(bytes.data()) + page - 1) / page * page;
  const uintptr_t end = (std::bit_cast<uintptr_t>(bytes.data()) + bytes.size()) / page * page;
  ASSERT_LT(begin, end) << "too small to hold a page";
  ASSERT_EQ(mprotect(std::bit_cast<void*>(begin), end - begin, PROT_NONE), 0);
}

TEST_F(WeightsTest, NothingOfOtherShardsAndStagesIsRead) {
  TinyModel model = kTwoHeads;
  model.vocab_size = 4001;
  const TempDir folder;
  model.Write(folder.path());
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder.path()));
  for (const auto& [name, entry] : checkpoint.entries()) {
    const std::span<const uint8_t> data = entry.tensor->data;
    if (name.starts_with("model.layers.2.") && data.size() > 8192) MakeUnreadable(data);
    const int64_t rows = entry.tensor->shape.front();
    const bool by_rows = name.find("embed") != name.npos || name.find("q_proj.w") != name.npos ||
                         name.find("gate_proj") != name.npos || name.find("up_proj") != name.npos;
    if (by_rows) MakeUnreadable(data.subspan(static_cast<size_t>(rows / 2) * kHidden * 4));
    if (name == "lm_head.weight") MakeUnreadable(data);
  }
  const auto load = [&](int32_t rank) {
    return LoadWeights(model.Config(), checkpoint,
                       {.layer_end = 2, .tensor_parallel_rank = rank, .tensor_parallel_size = 2},
                       *backend_);
  };
  EXPECT_OK(load(0));
  EXPECT_DEATH(load(1).status().IgnoreError(), "");
}

TEST_F(WeightsTest, SayWhichNumberOfShardsIsPossible) {
  TinyModel model;
  model.num_kv_heads = 4;
  for (const int32_t size : {3, 8}) {
    EXPECT_THAT(
        Load(model, {.layer_end = 3, .tensor_parallel_size = size}).status(),
        StatusIs(absl::StatusCode::kInvalidArgument,
                 ::testing::AllOf(HasSubstr("4 KV heads and intermediate size 160"),
                                  HasSubstr(absl::StrCat(" ", size, " ranks")),
                                  HasSubstr("set --tensor-parallel-size to one of 1, 2, 4"))));
  }
  EXPECT_THAT(
      Load(model, {.layer_end = 3, .tensor_parallel_rank = 2, .tensor_parallel_size = 2}).status(),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("shard 2 of 2")));
}

}  // namespace
}  // namespace longhaul::worker::model
