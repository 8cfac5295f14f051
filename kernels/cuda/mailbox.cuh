// Numbers that the blocks of one running kernel hand to each other. A word holds a number and the epoch in
// which it was written, stored as one: whoever sees the epoch has the number, so that neither a barrier nor a
// fence is needed. All blocks must run at once (cooperative launch).
//
// A word may be written again as soon as its last reader cannot be waiting for the old epoch any more; that
// is for the protocol of the kernel to see to.
#pragma once

#include <cstdint>

namespace sessa::cuda {

using Word = unsigned long long;  // epoch in the high half

__device__ __forceinline__ void Post(Word* to, uint32_t number, uint32_t epoch) {
  const Word word = Word{epoch} << 32 | number;
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}
// To 16-byte aligned words.
__device__ __forceinline__ void PostPair(Word* to, uint32_t first, uint32_t second, uint32_t epoch) {
  const Word high = Word{epoch} << 32;
  asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1, %2};" ::"l"(to), "l"(high | first), "l"(high | second)
               : "memory");
}

// A wait that lasts for seconds can only be a fault: end the kernel with an error instead of hanging.
inline constexpr int kMaxPolls = 1 << 24;

// The numbers of at(0), .., at(N - 1), once all are of `epoch`. Null: nothing to wait for, 0.
template <int N, typename At>
__device__ __forceinline__ void Await(uint32_t epoch, const At& at, uint32_t (&numbers)[N]) {
  bool ready;
  int polls = 0;
  do {
    Word words[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const Word* from = at(i);
      words[i] = Word{epoch} << 32;
      if (from != nullptr)
        asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(words[i]) : "l"(from) : "memory");
    }
    ready = true;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      numbers[i] = static_cast<uint32_t>(words[i]);
      ready &= static_cast<uint32_t>(words[i] >> 32) == epoch;
    }
    if (++polls == kMaxPolls) __trap();
  } while (!ready);
}

// As Await, of pairs of words: at(i) is 16-byte aligned and gives numbers[2 i] and numbers[2 i + 1].
template <int N, typename At>
__device__ __forceinline__ void AwaitPairs(uint32_t epoch, const At& at, uint32_t (&numbers)[2 * N]) {
  bool ready;
  int polls = 0;
  do {
    Word words[N][2];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const Word* from = at(i);
      words[i][0] = words[i][1] = Word{epoch} << 32;
      if (from != nullptr) {
        asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                     : "=l"(words[i][0]), "=l"(words[i][1])
                     : "l"(from)
                     : "memory");
      }
    }
    ready = true;
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        numbers[2 * i + e] = static_cast<uint32_t>(words[i][e]);
        ready &= static_cast<uint32_t>(words[i][e] >> 32) == epoch;
      }
    }
    if (++polls == kMaxPolls) __trap();
  } while (!ready);
}

}  // namespace sessa::cuda
