// State on its way from memory to the warps that use it: a ring of slots in shared memory, filled by one warp
// well ahead of the others. Every slot has two barriers: `full` (the copy has arrived) and `empty` (its
// reader is done). From sm_90 on the copies are bulk copies, which one lane starts; before, 16 bytes a lane.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_math.cuh"

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define SESSA_BULK_COPIES 1
#else
#define SESSA_BULK_COPIES 0
#endif

namespace sessa::cuda {

inline constexpr int kMaxSlots = 8;

__device__ __forceinline__ uint32_t RingAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// A barrier in shared memory. Its phases are waited for by their parity, which the caller keeps.
struct RingBarrier {
  uint64_t bits;

  __device__ __forceinline__ void Init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(RingAddress(&bits)), "r"(arrivals)
                 : "memory");
  }
  __device__ __forceinline__ void Arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(RingAddress(&bits)) : "memory");
  }
  __device__ __forceinline__ bool Passed(uint32_t parity) {
    uint32_t passed;
#if SESSA_BULK_COPIES
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
#else
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
#endif
        : "=r"(passed)
        : "r"(RingAddress(&bits)), "r"(parity)
        : "memory");
    return passed != 0;
  }
  __device__ __forceinline__ void Wait(uint32_t parity) {
    while (!Passed(parity)) {
    }
  }
};

// Makes initialised barriers visible to the copy engine; a __syncthreads follows.
__device__ __forceinline__ void FenceBarrierInit() {
#if SESSA_BULK_COPIES
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Arrivals that complete a slot's copy.
inline constexpr int kFullArrivals = SESSA_BULK_COPIES ? 1 : 32;

// A copying warp's calls for one slot: Begin, Copy for each contiguous piece, End; all lanes together.
class SlotFill {
 public:
  // `bytes`: of all pieces.
  __device__ __forceinline__ SlotFill(RingBarrier* full, int bytes) : full_(full), lane_(threadIdx.x & 31) {
#if SESSA_BULK_COPIES
    if (lane_ == 0) {
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(RingAddress(full)),
                   "r"(bytes)
                   : "memory");
    }
#endif
  }
  // Both ends and `bytes` are multiples of 16.
  __device__ __forceinline__ void Copy(char* to, const char* from, int bytes) {
#if SESSA_BULK_COPIES
    if (lane_ == 0) {
      uint64_t policy;  // each byte is read once a step: leave the cache to what is read again
      asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
          "[%3], %4;" ::"r"(RingAddress(to)),
          "l"(from), "r"(bytes), "r"(RingAddress(full_)), "l"(policy)
          : "memory");
    }
#else
    for (int at = lane_ * 16; at < bytes; at += 32 * 16) {
      asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(RingAddress(to + at)),
                   "l"(from + at)
                   : "memory");
    }
#endif
  }
  __device__ __forceinline__ void End() {
#if !SESSA_BULK_COPIES
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(RingAddress(full_)) : "memory");
#endif
  }

 private:
  RingBarrier* full_;
  int lane_;
};

// Where a warp stands in the ring. Slots that it passes without using them keep their phase.
struct RingPlace {
  int slot;
  uint32_t phases = 0;  // bit i: the parity of slot i's next use

  __device__ __forceinline__ uint32_t Use() {
    const uint32_t parity = phases >> slot & 1;
    phases ^= 1u << slot;
    return parity;
  }
  __device__ __forceinline__ void Advance(int step, int slots) {
    slot += step;
    if (slot >= slots) slot -= slots;
  }
};

}  // namespace sessa::cuda
