#include "worker/rank/kv_cache.h"

#include "tests/testing/status_matchers.h"
#include "worker/backend/cpu_backend.h"

namespace longhaul::worker::rank {
namespace {

using ::longhaul::testing::StatusIs;
using ::testing::HasSubstr;

constexpr backend::KvShape kFp32{.num_kv_heads = 2, .head_dim = 128};
constexpr backend::KvShape kBf16{
    .num_kv_heads = 2, .head_dim = 128, .dtype = backend::KvDType::kBFloat16};

TEST(KvCache, ABlockHoldsKeysValuesAndScalesOfAllLayers) {
  const auto backend = backend::MakeCpuBackend(1);
  // Per layer: K and V of 2 heads, 256 tokens, 128 numbers; 2-byte scales of both.
  EXPECT_EQ(KvCache::BlockBytes(*backend, kFp32, 4), 4 * (2 * 2 * 256 * 128 * 4 + 2 * 2 * 256 * 2));
  EXPECT_EQ(KvCache::BlockBytes(*backend, kBf16, 4), 4 * (2 * 2 * 256 * 128 * 2 + 2 * 2 * 256 * 2));
}

TEST(KvCache, LayersOfABlockLieSideBySideAndFillTheCache) {
  const auto backend = backend::MakeCpuBackend(1);
  ASSERT_OK_AND_ASSIGN(const KvCache cache, KvCache::Create(*backend, kBf16, 3, 5));
  EXPECT_EQ(cache.num_blocks(), 5);
  EXPECT_EQ(cache.bytes(), 5 * KvCache::BlockBytes(*backend, kBf16, 3));
  const backend::KvLayer first = cache.Layer(0);
  const backend::KvLayer last = cache.Layer(2);
  EXPECT_EQ(first.block_stride_bytes, KvCache::BlockBytes(*backend, kBf16, 3));
  EXPECT_EQ(last.base - first.base, 2 * backend->KvLayerBlockBytes(kBf16));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(last.base) % 64, 0u);
  EXPECT_EQ(first.block_stride_bytes % 64, 0);
  // The last byte of the last layer of the last block is the cache's last.
  EXPECT_EQ(last.base + 4 * last.block_stride_bytes + backend->KvLayerBlockBytes(kBf16),
            first.base + cache.bytes());
}

TEST(KvCache, ABlockIsAllOfItsLayers) {
  const auto backend = backend::MakeCpuBackend(1);
  ASSERT_OK_AND_ASSIGN(const KvCache cache, KvCache::Create(*backend, kBf16, 3, 5));
  EXPECT_EQ(cache.block_bytes(), KvCache::BlockBytes(*backend, kBf16, 3));
  for (const BlockId id : {0, 4}) {
    const TensorView block = cache.Block(id);
    EXPECT_EQ(block.bytes(), cache.block_bytes());
    EXPECT_EQ(block.data, cache.Layer(0).base + id * cache.Layer(0).block_stride_bytes);
  }
}

TEST(KvCache, NamesTheSettingWhenMemoryCannotBeHad) {
  const auto backend = backend::MakeCpuBackend(1);
  EXPECT_THAT(KvCache::Create(*backend, kFp32, 4, 2000000000).status(),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("kv-cache-gib")));
}

TEST(KvCache, MemoryIsTouchedAsItIsUsed) {
  const auto backend = backend::MakeCpuBackend(1);
  // 64 GiB that no test machine has.
  ASSERT_OK_AND_ASSIGN(const KvCache cache, KvCache::Create(*backend, kFp32, 4, 32768));
  cache.Layer(3).base[32767 * cache.Layer(3).block_stride_bytes] = 1;
}

}  // namespace
}  // namespace longhaul::worker::rank
