// Copies to shared memory by the copy engine (sm_90 and later), and the barriers that they complete.
#pragma once

#include <cstdint>

namespace sessa::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__device__ __forceinline__ void InitBarrier(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(SharedAddress(barrier)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void ExpectBytes(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void ArriveBarrier(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}
__device__ __forceinline__ void CopyBytes(char* to, const char* from, int bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          SharedAddress(to)),
      "l"(from), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
}
__device__ __forceinline__ void AwaitBytes(uint64_t* barrier, uint32_t parity) {
  uint32_t arrived;
  do {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(arrived)
        : "r"(SharedAddress(barrier)), "r"(parity)
        : "memory");
  } while (arrived == 0);
}
// What this thread wrote to shared memory comes before copies that start after the next __syncthreads.
__device__ __forceinline__ void FenceCopies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#else  // never run there
__device__ __forceinline__ void InitBarrier(uint64_t*) {}
__device__ __forceinline__ void ExpectBytes(uint64_t*, int) {}
__device__ __forceinline__ void ArriveBarrier(uint64_t*) {}
__device__ __forceinline__ void CopyBytes(char*, const char*, int, uint64_t*) {}
__device__ __forceinline__ void AwaitBytes(uint64_t*, uint32_t) {}
__device__ __forceinline__ void FenceCopies() {}
#endif

}  // namespace sessa::cuda
