#pragma once

#include <cuda_runtime.h>

#include <cstdint>

// Hopper's own instructions (sm_90a), as PTX names them: barriers of asynchronous copies, the bulk
// tensor copy engine (TMA), matrix products of warpgroups (wgmma), registers moved between warps.
// Device code of sm_90a only.

namespace longhaul::kernels::hopper {

__device__ inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// --- mbarrier: counts arrivals of threads and bytes of copies, phase by phase.

__device__ inline void BarrierInit(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
               "r"(arrivals));
}

// Makes BarrierInit visible to the copy engine; before the block's first barrier of threads.
__device__ inline void BarrierInitFence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void BarrierExpectBytes(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(bytes)
      : "memory");
}

__device__ inline void BarrierArrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}

// Arrives at the barrier at the same place in the shared memory of block `rank` of the cluster.
__device__ inline void BarrierArriveAt(uint64_t* barrier, uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}\n" ::"r"(SharedAddress(barrier)),
      "r"(rank)
      : "memory");
}

// Waits until the phase of this parity (0 for the first) is over.
__device__ inline void BarrierWait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

// --- Barriers between warps, by number (0 is __syncthreads').

__device__ inline void NamedBarrierSync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ inline void NamedBarrierArrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// --- Clusters of blocks.

__device__ inline uint32_t ClusterRank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of the cluster.
__device__ inline void ClusterSync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// --- TMA: a box of a tensor to shared memory; coordinates fastest first, in elements.

__device__ inline void PrefetchTensorMap(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ inline void TmaLoad3d(void* shared, const void* map, uint64_t* barrier, int c0, int c1,
                                 int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

// To the same place in the shared memory of every block of the cluster that `blocks` has a bit for,
// each of whose barriers at that place counts the bytes.
__device__ inline void TmaLoad4dMulticast(void* shared, const void* map, uint64_t* barrier,
                                          uint16_t blocks, int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%4, %5, %6, %7}], [%2], %3;" ::"r"(SharedAddress(shared)),
      "l"(map), "r"(SharedAddress(barrier)), "h"(blocks), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// --- Registers of a warpgroup. Every warp of it must call this.

template <int kRegisters>
__device__ inline void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ inline void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// --- wgmma.

// A matrix of bf16 in shared memory, in slabs of 64 columns (128 bytes) by any number of rows, with
// TMA's 128-byte swizzle; slabs start at multiples of 1,024 bytes. `address` may point at a row
// that is a multiple of 8 and, along a slab's row, at a multiple of 32 bytes.
//
// Rows along M or N, columns along K (Q and K of attention).
__device__ inline uint64_t DescribeRows(uint32_t address) {
  constexpr uint64_t kEightRows = 8 * 128;
  return (uint64_t{1} << 62) | ((kEightRows >> 4) << 32) | (uint64_t{1} << 16) |
         ((address & 0x3ffff) >> 4);
}

// Rows along K, columns along N (V of attention); slabs are `slab_bytes` apart.
__device__ inline uint64_t DescribeColumns(uint32_t address, uint32_t slab_bytes) {
  constexpr uint64_t kEightRows = 8 * 128;
  return (uint64_t{1} << 62) | ((kEightRows >> 4) << 32) |
         (static_cast<uint64_t>(slab_bytes >> 4) << 16) | ((address & 0x3ffff) >> 4);
}

__device__ inline void WgmmaFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ inline void WgmmaCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most kPending of the committed groups are still at work.
template <int kPending>
__device__ inline void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving accesses of these registers across this point: a product at work
// reads or writes them.
template <int kCount>
__device__ inline void PinRegisters(float (&r)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(r[i])::"memory");
}

// clang-format off
#define LONGHAUL_REGS8(d, i)                                                                \
  "+f"((d)[(i)]), "+f"((d)[(i) + 1]), "+f"((d)[(i) + 2]), "+f"((d)[(i) + 3]),               \
  "+f"((d)[(i) + 4]), "+f"((d)[(i) + 5]), "+f"((d)[(i) + 6]), "+f"((d)[(i) + 7])
#define LONGHAUL_REGS32(d, i)                                                               \
  LONGHAUL_REGS8(d, i), LONGHAUL_REGS8(d, (i) + 8), LONGHAUL_REGS8(d, (i) + 16),            \
  LONGHAUL_REGS8(d, (i) + 24)

// d [64, 128] = a [64, 16] b [128, 16]^T, or += if `add`. All of shared memory; a and b from
// DescribeRows. A thread's d: element 4 j + 2 h + e is row 16 warp + lane / 4 + 8 h, column
// 8 j + 2 (lane % 4) + e.
__device__ inline void WgmmaRows(float (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, p, 1, 1, 0, 0;\n"
      "}\n"
      : LONGHAUL_REGS32(d, 0), LONGHAUL_REGS32(d, 32)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

// d [64, 128] += a [64, 16] b [16, 128]: a in registers, b from DescribeColumns.
__device__ inline void WgmmaColumns(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
      "}\n"
      : LONGHAUL_REGS32(d, 0), LONGHAUL_REGS32(d, 32)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// The same for b [16, 64].
__device__ inline void WgmmaColumns(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile(
      "{\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
      "}\n"
      : LONGHAUL_REGS32(d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#undef LONGHAUL_REGS32
#undef LONGHAUL_REGS8
// clang-format on

}  // namespace longhaul::kernels::hopper
