// Copies from global to shared memory, and the barriers at which they arrive. From sm_90 on the copy engine
// makes them, before that cp.async, 16 bytes a lane.
//
// racecheck sees neither arrive, and may not connect the lanes of a warp of which one arrives for all. In a
// build for it (SESSA_CUDA_RACECHECK) copies are plain loads and stores and each lane arrives for itself: the
// same bytes at the same barriers, so that what it can check is who waits for whom.
#pragma once

#include <cstdint>

#ifndef SESSA_RACECHECK
#define SESSA_RACECHECK 0
#endif
#if !SESSA_RACECHECK && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900)
#define SESSA_BULK_COPIES 1
#else
#define SESSA_BULK_COPIES 0
#endif

namespace sessa::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

// A barrier in shared memory. Its phases are waited for by their parity, which the caller keeps.
struct CopyBarrier {
  uint64_t bits;

  __device__ __forceinline__ void Init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(&bits)), "r"(arrivals)
                 : "memory");
  }
  __device__ __forceinline__ void Arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(&bits)) : "memory");
  }
  // Whether the phase has passed by now; does not wait.
  __device__ __forceinline__ bool Test(uint32_t parity) {
    uint32_t passed;
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(passed)
        : "r"(SharedAddress(&bits)), "r"(parity)
        : "memory");
    return passed != 0;
  }
  // The same, but may wait for it a while where the hardware can.
  __device__ __forceinline__ bool Passed(uint32_t parity) {
#if SESSA_BULK_COPIES
    uint32_t passed;
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(passed)
        : "r"(SharedAddress(&bits)), "r"(parity)
        : "memory");
    return passed != 0;
#else
    return Test(parity);
#endif
  }
  __device__ __forceinline__ void Wait(uint32_t parity) {
    while (!Passed(parity)) {
    }
  }
  // The arrival of a warp: kWarpArrivals arrivals, after what all its lanes did.
  __device__ __forceinline__ void ArriveAsWarp() {
#if SESSA_RACECHECK
    Arrive();
#else
    __syncwarp();
    if ((threadIdx.x & 31) == 0) Arrive();
#endif
  }
  // The arrival of `threads` threads that have just met: MeetingArrivals(threads) arrivals.
  __device__ __forceinline__ void ArriveAfterMeeting() {
    if (SESSA_RACECHECK || threadIdx.x == 0) Arrive();
  }
};
inline constexpr int kWarpArrivals = SESSA_RACECHECK ? 32 : 1;
__host__ __device__ constexpr int MeetingArrivals(int threads) { return SESSA_RACECHECK ? threads : 1; }

// Makes initialised barriers visible to the copy engine; a __syncthreads follows.
__device__ __forceinline__ void FenceBarrierInit() {
#if SESSA_BULK_COPIES
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// What this thread wrote to shared memory comes before copies that start after the next barrier of its block.
__device__ __forceinline__ void FenceCopies() {
#if SESSA_BULK_COPIES
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// A warp starts copies that arrive at one barrier, of kFullArrivals arrivals, by these calls in this order:
// ExpectBytes by one lane; CopyBytes by any; EndCopies by all lanes.
inline constexpr int kFullArrivals = SESSA_BULK_COPIES ? 1 : 32;

// `bytes`: of all the copies.
__device__ __forceinline__ void ExpectBytes(CopyBarrier* barrier, int bytes) {
#if SESSA_BULK_COPIES
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(&barrier->bits)),
               "r"(bytes)
               : "memory");
#endif
}

// Both ends and `bytes` are multiples of 16. `kOnce`: nobody reads the bytes again soon, so that they need
// not stay in the L2 cache.
template <bool kOnce>
__device__ __forceinline__ void CopyBytes(char* to, const char* from, int bytes, CopyBarrier* barrier) {
#if SESSA_BULK_COPIES
  if constexpr (kOnce) {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
        "[%3], %4;" ::"r"(SharedAddress(to)),
        "l"(from), "r"(bytes), "r"(SharedAddress(&barrier->bits)), "l"(policy)
        : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            SharedAddress(to)),
        "l"(from), "r"(bytes), "r"(SharedAddress(&barrier->bits))
        : "memory");
  }
#else
  for (int at = 0; at < bytes; at += 16) {
#if SESSA_RACECHECK
    *reinterpret_cast<uint4*>(to + at) = *reinterpret_cast<const uint4*>(from + at);
#else
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(SharedAddress(to + at)),
                 "l"(from + at)
                 : "memory");
#endif
  }
#endif
}

// A piece that the whole warp copies.
template <bool kOnce>
__device__ __forceinline__ void WarpCopyBytes(char* to, const char* from, int bytes, CopyBarrier* barrier) {
  const int lane = threadIdx.x & 31;
#if SESSA_BULK_COPIES
  if (lane == 0) CopyBytes<kOnce>(to, from, bytes, barrier);
#else
  for (int at = lane * 16; at < bytes; at += 32 * 16) CopyBytes<kOnce>(to + at, from + at, 16, barrier);
#endif
}

__device__ __forceinline__ void EndCopies(CopyBarrier* barrier) {
#if SESSA_RACECHECK
  barrier->Arrive();
#elif !SESSA_BULK_COPIES
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(SharedAddress(&barrier->bits))
               : "memory");
#endif
}

}  // namespace sessa::cuda
