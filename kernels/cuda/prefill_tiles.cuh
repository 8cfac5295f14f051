// The tile product under the feedback solve: C(128, N) = A(128, 64 steps) B, two-byte operands, float32 sums.
//
// A persistent block walks over a list of tiles. One thread of the last warpgroup copies 128 x 64 of A and 64
// x N (or N x 64) of B a step through a ring of shared-memory stages; each of the first two warpgroups
// multiplies 64 rows and hands its accumulator to the operation's epilogue, while the copies of the next tile
// are under way.
//
// An operation (Op) has: kColumns (N), Element (__half or __nv_bfloat16), kTransposeB (B's rows are k), Tile,
// and
//   int count; TileAt(index) -> Tile;  Prefetch(): of the tensor maps
//   Prepare(tile) -> Source, LoadA(tile, source, step, to, barrier), LoadB: issue the copies of a step
//   kConstantB: no kernel writes B, so it may be copied while the kernel before still runs
//   Steps(tile); Begin(tile, row) -> Epilogue: what Finish will need, loaded while the tile is multiplied
//   kThenLinear: the sums over Steps(tile) are multiplied with epilogue.factor, then LinearSteps(tile) steps
//   of
//     bf16 rows times rows are added
//   Finish(tile, epilogue, acc, row): row is the thread's first row of the tile
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/prefill_hopper.cuh"
#include "kernels/cuda/prefill_overlap.cuh"
#include "kernels/cuda/prefill_tables.h"
#include "kernels/cuda/prefill_wgmma.cuh"

namespace sessa::cuda {

inline constexpr int kTileThreads = 384;
inline constexpr int kStepDepth = 64;  // k of a step: 128 bytes
inline constexpr int kBoxBytes = 64 * 128;

template <int kColumns>
struct TileShape {
  static constexpr int kBytesA = kTileRows * 128;
  static constexpr int kBytesB = kColumns * 128;
  static constexpr int kStages = kColumns == 256 ? 4 : 6;
  static constexpr int kShared = kStages * (kBytesA + kBytesB) + 1024;
};

// One step: 64 rows of A times B of the stage.
template <int kTransposeB, class Element, int N>
__device__ __forceinline__ void MultiplyStep(float (&acc)[N], uint32_t a, uint32_t b, bool first) {
  const Operand from_a = RowOperand(a);
  const Operand from_b = kTransposeB ? ColumnOperand(b, kBoxBytes) : RowOperand(b);
#pragma unroll
  for (int k = 0; k < kStepDepth; k += 16) {
    WgmmaShared<kTransposeB>(acc, from_a.At(2 * k), from_b.At(kTransposeB ? 128 * k : 2 * k),
                             !(first && k == 0), Element());
  }
}

#if SESSA_HOPPER_CODE

// The ring of stages, as one side sees it.
template <int kStages>
struct StagePlace {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void Next() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};

template <class Op>
__device__ __forceinline__ int AllSteps(const Op& op, const typename Op::Tile& tile) {
  if constexpr (Op::kThenLinear) return op.Steps(tile) + op.LinearSteps(tile);
  return op.Steps(tile);
}

template <class Op>
__device__ __forceinline__ void ProduceTiles(const Op& op, uint8_t* stages, uint64_t* full, uint64_t* empty) {
  using Shape = TileShape<Op::kColumns>;
  constexpr int kStageBytes = Shape::kBytesA + Shape::kBytesB;
  StagePlace<Shape::kStages> place;
  op.Prefetch();
  typename Op::Tile tile = op.TileAt(blockIdx.x);
  typename Op::Source source = op.Prepare(tile);
  int step = 0;
  if constexpr (Op::kConstantB) {
    const int early = min(AllSteps(op, tile), Shape::kStages);
    for (int i = 0; i < early; i++) {
      BarrierExpectBytes(&full[i], kStageBytes);
      op.LoadB(tile, source, i, stages + i * kStageBytes + Shape::kBytesA, &full[i]);
    }
    WaitForPrevious();
    for (; step < early; step++) {
      op.LoadA(tile, source, step, stages + step * kStageBytes, &full[step]);
      place.Next();
    }
  } else {
    WaitForPrevious();
  }
  for (int index = blockIdx.x; index < op.count; index += gridDim.x) {
    if (index != blockIdx.x) {
      tile = op.TileAt(index);
      source = op.Prepare(tile);
      step = 0;
    }
    const int steps = AllSteps(op, tile);
    for (; step < steps; step++) {
      BarrierWait(&empty[place.stage], place.phase ^ 1);
      uint8_t* a = stages + place.stage * kStageBytes;
      BarrierExpectBytes(&full[place.stage], kStageBytes);
      op.LoadA(tile, source, step, a, &full[place.stage]);
      op.LoadB(tile, source, step, a + Shape::kBytesA, &full[place.stage]);
      place.Next();
    }
  }
}

// acc = [acc +] the next `steps` steps of the ring.
template <int kTransposeB, class Element, int N>
__device__ __forceinline__ void MultiplySteps(float (&acc)[N], int steps, bool add, uint8_t* stages,
                                              uint64_t* full, uint64_t* empty,
                                              StagePlace<TileShape<2 * N>::kStages>& place) {
  using Shape = TileShape<2 * N>;
  const int group = threadIdx.x / 128, lane = threadIdx.x % 32;
  int previous = -1;
  for (int step = 0; step < steps; step++) {
    BarrierWait(&full[place.stage], place.phase);
    const uint32_t a = SharedAddress(stages + place.stage * (Shape::kBytesA + Shape::kBytesB));
    Pin(acc);
    WgmmaFence();
    MultiplyStep<kTransposeB, Element>(acc, a + group * 64 * 128, a + Shape::kBytesA, step == 0 && !add);
    WgmmaCommit();
    Pin(acc);
    WgmmaWait<1>();  // the step before has been read
    if (previous >= 0 && lane == 0) BarrierArrive(&empty[previous]);
    previous = place.stage;
    place.Next();
  }
  WgmmaWait<0>();
  Pin(acc);
  if (previous >= 0 && lane == 0) BarrierArrive(&empty[previous]);
}

template <class Op>
__device__ __forceinline__ void ConsumeTiles(const Op& op, uint8_t* stages, uint64_t* full, uint64_t* empty) {
  constexpr int kSums = Op::kColumns / 2;
  const int group = threadIdx.x / 128, lane = threadIdx.x % 32;
  const int row = group * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4;
  StagePlace<TileShape<Op::kColumns>::kStages> place;
  typename Op::Tile tile = op.TileAt(blockIdx.x);
  WaitForPrevious();
  for (int index = blockIdx.x; index < op.count; index += gridDim.x) {
    if (index != blockIdx.x) tile = op.TileAt(index);
    const int steps = op.Steps(tile);
    typename Op::Epilogue epilogue = op.Begin(tile, row);
    float acc[kSums];
    if (steps == 0) {
#pragma unroll
      for (int i = 0; i < kSums; i++) acc[i] = 0;
    }
    MultiplySteps<Op::kTransposeB, typename Op::Element>(acc, steps, false, stages, full, empty, place);
    if constexpr (Op::kThenLinear) {
#pragma unroll
      for (int i = 0; i < kSums; i++) acc[i] *= epilogue.factor[i / 2 % 2];
      MultiplySteps<0, __nv_bfloat16>(acc, op.LinearSteps(tile), true, stages, full, empty, place);
    }
    op.Finish(tile, epilogue, acc, row);
  }
}

#endif  // SESSA_HOPPER_CODE

template <class Op>
__global__ void __launch_bounds__(kTileThreads, 1) TileKernel(const __grid_constant__ Op op) {
#if SESSA_HOPPER_CODE
  using Shape = TileShape<Op::kColumns>;
  extern __shared__ uint8_t shared[];
  __shared__ uint64_t full[Shape::kStages], empty[Shape::kStages];
  uint8_t* stages = shared + ((1024 - SharedAddress(shared) % 1024) % 1024);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kStages; i++) {
      BarrierInit(&full[i], 1);
      BarrierInit(&empty[i], 8);  // the consumers' warps
    }
    BarrierInitFence();
  }
  __syncthreads();
  AllowNext();
  if (threadIdx.x >= 256) {
    ShrinkRegisters<40>();
    if (threadIdx.x == 256) {
      ProduceTiles(op, stages, full, empty);
    } else {
      WaitForPrevious();
    }
  } else {
    GrowRegisters<232>();
    ConsumeTiles(op, stages, full, empty);
  }
#else
  __trap();
#endif
}

template <class Op>
cudaError_t LaunchTiles(const Op& op, int multiprocessors, cudaStream_t stream) {
  if (op.count == 0) return cudaSuccess;
  constexpr int kShared = TileShape<Op::kColumns>::kShared;
  static const cudaError_t configured =
      cudaFuncSetAttribute(TileKernel<Op>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (configured != cudaSuccess) return configured;
  const int blocks = op.count < multiprocessors ? op.count : multiprocessors;
  return LaunchOverlapped(TileKernel<Op>, blocks, kTileThreads, kShared, stream, op);
}

}  // namespace sessa::cuda
