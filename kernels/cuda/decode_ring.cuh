// State on its way from memory to the warps that use it: a ring of slots in shared memory, filled by one warp
// well ahead of the others. Every slot has two barriers: `full` (the copy has arrived) and `empty` (its
// reader is done). From sm_90 on the copies are bulk copies, which one lane starts; before, 16 bytes a lane.
#pragma once

#include <cstdint>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/device_math.cuh"

namespace sessa::cuda {

inline constexpr int kMaxSlots = 8;

// A copying warp's calls for one slot: Begin, Copy for each contiguous piece, End; all lanes together.
class SlotFill {
 public:
  // `bytes`: of all pieces.
  __device__ __forceinline__ SlotFill(CopyBarrier* full, int bytes) : full_(full) {
    if ((threadIdx.x & 31) == 0) ExpectBytes(full, bytes);
  }
  // Both ends and `bytes` are multiples of 16.
  __device__ __forceinline__ void Copy(char* to, const char* from, int bytes) {
    WarpCopyBytes<true>(to, from, bytes, full_);  // each byte is read once a step
  }
  __device__ __forceinline__ void End() { EndCopies(full_); }

 private:
  CopyBarrier* full_;
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
