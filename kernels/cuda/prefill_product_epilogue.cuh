// What becomes of the sums of a product of the feedback solve: joined with what they are added to, scaled,
// stored.
#pragma once

#include <type_traits>

#include "kernels/cuda/prefill_append.cuh"
#include "kernels/cuda/prefill_hopper.cuh"
#include "kernels/cuda/prefill_launch.h"

namespace sessa::cuda {

// For an operation of the tile product (prefill_tiles.cuh); see ProductKind for the formulas.
template <ProductKind kProduct, int kColumns>
struct ProductEpilogue {
  using Tile = ProductTile;
  static constexpr bool kFromPages =
      kProduct == ProductKind::kPast || kProduct == ProductKind::kRight || kProduct == ProductKind::kRightOut;

  PrefillBuffers buffers;
  SolveOperands operands;

  // Whether the values that the sums join are loaded while the tile is multiplied (or, for want of registers,
  // afterwards).
  static constexpr bool kPreload =
      kProduct != ProductKind::kPast && kProduct != ProductKind::kRightOut && kColumns <= 128;
  static constexpr bool kOldIsHalf =
      kProduct == ProductKind::kInverseLeft || kProduct == ProductKind::kInverse;
  using Old = std::conditional_t<kOldIsHalf, __half2, float2>;

  // Of the thread's rows, row and row + 8 of the tile.
  struct Epilogue {
    bool valid[2];
    float factor[2];   // sigma
    float rescale[2];  // what the past's sums so far are brought to the new maximum with; 0: there are none
    const float* right[2];  // f or known s of the row; null: padding
    bool is_new[2];         // kRightOut
    SolvedRow solved[2];
    Old old[2][kPreload ? kColumns / 8 : 1];
    float2 gate[2][kProduct == ProductKind::kLeaf && kPreload ? kColumns / 8 : 1];  // g, where u is wanted
  };

  // Of the tile: the first of the thread's two columns of accumulators 4 j and on.
  static __device__ int Column(int j) { return 8 * j + 2 * (threadIdx.x % 4); }

  __device__ Epilogue Begin(const Tile& tile, int row) const {
    Epilogue epilogue;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int tile_row = row + 8 * half;
      const int64_t a_row = tile.a_row + tile_row;
      epilogue.valid[half] = tile_row < tile.valid_rows;
      epilogue.factor[half] = epilogue.rescale[half] = 0;
      epilogue.right[half] = nullptr;
      epilogue.is_new[half] = false;
      if (!epilogue.valid[half]) continue;
      if constexpr (kProduct != ProductKind::kPast && kProduct != ProductKind::kInverse &&
                    kProduct != ProductKind::kLeaf) {
        epilogue.factor[half] = buffers.sigma[a_row];
      }
      if constexpr (kFromPages) {
        if (tile.extra & 1) epilogue.rescale[half] = buffers.rescale[a_row];
      }
      if constexpr (kProduct == ProductKind::kRight || kProduct == ProductKind::kRightOut) {
        const DeviceSegment& segment = buffers.segments[tile.segment];
        const int i = tile.extra / 2 + tile_row;
        epilogue.right[half] = RightRow(segment, i);
        epilogue.is_new[half] = i >= segment.lead && i < segment.lead + segment.rows;
      }
      if constexpr (kProduct == ProductKind::kLeaf) {
        epilogue.solved[half] =
            FindSolvedRow(buffers, buffers.segments[tile.segment], tile.extra + tile_row, operands);
      }
      if constexpr (kPreload) {
#pragma unroll
        for (int j = 0; j < kColumns / 8; j++)
          epilogue.old[half][j] = LoadOld(tile, epilogue, half, tile_row, j);
      }
      if constexpr (kProduct == ProductKind::kLeaf && kPreload) {
#pragma unroll
        for (int j = 0; j < kColumns / 8; j++)
          epilogue.gate[half][j] = LoadGate(tile, epilogue.solved[half], j);
      }
    }
    return epilogue;
  }

  // Column 0 of what the right-hand side of padded row i begins with.
  __device__ const float* RightRow(const DeviceSegment& segment, int i) const {
    if (i < segment.lead) {
      return reinterpret_cast<const float*>(buffers.open_plane +
                                            segment.open_page * buffers.open_page_bytes) +
             static_cast<int64_t>(i) * buffers.D;
    }
    if (kProduct == ProductKind::kRightOut || i >= segment.lead + segment.rows) return nullptr;
    return operands.f + static_cast<int64_t>(segment.first_row + i - segment.lead) * buffers.D;
  }

  // What the sums join: P~, T, f or r, at the thread's columns Column(j) of the tile.
  __device__ Old LoadOld(const Tile& tile, const Epilogue& epilogue, int half, int tile_row, int j) const {
    const int64_t out_row = tile.out_row + tile_row;
    const int n = Column(j), column = tile.out_column + n;
    if constexpr (kProduct == ProductKind::kInverseLeft) {
      return *reinterpret_cast<const __half2*>(buffers.panel + out_row * buffers.panel_columns + tile.extra +
                                               n);
    } else if constexpr (kProduct == ProductKind::kInverse) {
      return *reinterpret_cast<const __half2*>(buffers.product + out_row * (kMaxLeaf / 2) + tile.extra + n);
    } else if constexpr (kProduct == ProductKind::kRight || kProduct == ProductKind::kRightOut) {
      if (epilogue.right[half] == nullptr || column >= buffers.D) return make_float2(0, 0);
      return *reinterpret_cast<const float2*>(epilogue.right[half] + column);
    } else if constexpr (kProduct == ProductKind::kPast) {
      return make_float2(0, 0);
    } else {
      if (column >= buffers.width) return make_float2(0, 0);
      return *reinterpret_cast<const float2*>(buffers.r + out_row * buffers.width + column);
    }
  }

  __device__ float2 LoadGate(const Tile& tile, const SolvedRow& solved, int j) const {
    const int column = tile.out_column + Column(j);
    if (solved.g == nullptr || column >= buffers.D) return make_float2(0, 0);
    return *reinterpret_cast<const float2*>(solved.g + column);
  }

  __device__ void Finish(const Tile& tile, const Epilogue& epilogue, float (&acc)[kColumns / 2],
                         int row) const {
    int saturated = 0;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int tile_row = row + 8 * half;
      if (epilogue.valid[half]) {
        Join(tile, epilogue, half, tile_row, acc);
        StoreFloats(tile, half, tile_row, acc);
        if constexpr (kProduct == ProductKind::kLeaf) saturated += StoreSolvedRow(tile, epilogue, half, acc);
      }
      if constexpr (kProduct != ProductKind::kPast) StoreHalves(tile, epilogue, half, tile_row, acc);
    }
    if constexpr (kProduct == ProductKind::kLeaf) CountSaturations(operands, saturated);
  }

  // The result, in acc, from the sums and what they join.
  __device__ void Join(const Tile& tile, const Epilogue& epilogue, int half, int tile_row,
                       float (&acc)[kColumns / 2]) const {
    if constexpr (kFromPages) {
      if (tile.extra & 1) AddPlanes(tile, epilogue.rescale[half], half, tile_row, acc);
    }
    if constexpr (kProduct == ProductKind::kPast) return;
    if constexpr (kProduct == ProductKind::kRightOut) {
      if (epilogue.is_new[half]) return;
    }
    const float factor = epilogue.factor[half];
#pragma unroll
    for (int j = 0; j < kColumns / 8; j++) {
      float &x = acc[4 * j + 2 * half], &y = acc[4 * j + 2 * half + 1];
      Old joined;
      if constexpr (kPreload) {
        joined = epilogue.old[half][j];
      } else {
        joined = LoadOld(tile, epilogue, half, tile_row, j);
      }
      float2 old;
      if constexpr (kOldIsHalf) {
        old = __half22float2(joined);
      } else {
        old = joined;
      }
      if constexpr (kProduct == ProductKind::kRightOut) {
        x = old.x, y = old.y;
      } else if constexpr (kProduct == ProductKind::kInverseLeft) {
        x = factor * (old.x + x), y = factor * (old.y + y);
      } else if constexpr (kProduct == ProductKind::kInverse || kProduct == ProductKind::kLeaf) {
        x = old.x + x, y = old.y + y;
      } else {
        x = old.x + factor * x, y = old.y + factor * y;
      }
    }
  }

  // Adds the past's sums so far.
  __device__ void AddPlanes(const Tile& tile, float rescale, int half, int tile_row,
                            float (&acc)[kColumns / 2]) const {
    const float* planes = buffers.planes + static_cast<int64_t>(tile.out_row + tile_row) * buffers.width;
#pragma unroll
    for (int j = 0; j < kColumns / 8; j++) {
      const int column = tile.out_column + Column(j);
      if (column >= buffers.width) continue;
      const float2 plane = *reinterpret_cast<const float2*>(planes + column);
      acc[4 * j + 2 * half] += plane.x * rescale;
      acc[4 * j + 2 * half + 1] += plane.y * rescale;
    }
  }

  // Stores the thread's columns before `columns` of a tile's row that begins at `row`.
  static __device__ void StorePairs(float* row, int columns, int half, const float (&acc)[kColumns / 2]) {
    float* to = row + Column(0);
#pragma unroll
    for (int j = 0; j < kColumns / 8; j++) {
      if (8 * j < columns) {
        *reinterpret_cast<float2*>(to + 8 * j) =
            make_float2(acc[4 * j + 2 * half], acc[4 * j + 2 * half + 1]);
      }
    }
  }

  __device__ void StoreFloats(const Tile& tile, int half, int tile_row,
                              const float (&acc)[kColumns / 2]) const {
    if constexpr (kProduct == ProductKind::kPast || kProduct == ProductKind::kRight ||
                  kProduct == ProductKind::kRightOut || kProduct == ProductKind::kUpdate) {
      float* to = kProduct == ProductKind::kPast ? buffers.planes : buffers.r;
      StorePairs(to + static_cast<int64_t>(tile.out_row + tile_row) * buffers.width + tile.out_column,
                 buffers.width - tile.out_column, half, acc);
    }
  }

  // s, where it is wanted, but for the page's. Returns how many values fp16 does not hold.
  __device__ int StoreSolvedRow(const Tile& tile, const Epilogue& epilogue, int half,
                                const float (&acc)[kColumns / 2]) const {
    const SolvedRow& solved = epilogue.solved[half];
    if (solved.page == nullptr) return 0;
    const int columns = buffers.D - tile.out_column;
    if (solved.s != nullptr) StorePairs(solved.s + tile.out_column, columns, half, acc);
    if (solved.open != nullptr) StorePairs(solved.open + tile.out_column, columns, half, acc);
    __nv_bfloat16* u = solved.u + tile.out_column + Column(0);
    int saturated = 0;
#pragma unroll
    for (int j = 0; j < kColumns / 8; j++) {
      const float x = acc[4 * j + 2 * half], y = acc[4 * j + 2 * half + 1];
      if (8 * j >= columns) continue;
      saturated += !(fabsf(x) <= 65504.f) + !(fabsf(y) <= 65504.f);
      if (solved.u == nullptr) continue;
      float2 gate;
      if constexpr (kPreload) {
        gate = epilogue.gate[half][j];
      } else {
        gate = LoadGate(tile, solved, j);
      }
      *reinterpret_cast<__nv_bfloat162*>(u + 8 * j) = __floats2bfloat162_rn(x * gate.x, y * gate.y);
    }
    return saturated;
  }

  // The result in fp16: 16 bytes a lane, 64 of a row. All threads of a warp call it.
  __device__ void StoreHalves(const Tile& tile, const Epilogue& epilogue, int half, int tile_row,
                              const float (&acc)[kColumns / 2]) const {
    const int64_t out_row = tile.out_row + tile_row;
    const int mine = tile.out_column + 8 * (threadIdx.x % 4);  // column, of groups 0 to 3
    __half* to;
    int columns = kColumns;  // that the tile has, from the thread's first on
    if constexpr (kProduct == ProductKind::kInverseLeft) {
      to = buffers.product + out_row * (kMaxLeaf / 2) + mine;
    } else if constexpr (kProduct == ProductKind::kInverse) {
      to = buffers.inverse + out_row * kMaxLeaf + mine;
    } else {
      to =
          (kProduct == ProductKind::kLeaf ? buffers.s_half : buffers.r_half) + out_row * buffers.width + mine;
      columns = buffers.width - mine;
    }
    __half* page = nullptr;
    if constexpr (kProduct == ProductKind::kLeaf) page = epilogue.solved[half].page;
#pragma unroll
    for (int j0 = 0; j0 < kColumns / 8; j0 += 4) {
      uint32_t packed[4];
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const int at = 4 * (j0 + k) + 2 * half;
        const __half2 rounded = ClampToHalf(make_float2(acc[at], acc[at + 1]));
        packed[k] = *reinterpret_cast<const uint32_t*>(&rounded);
      }
      QuadTranspose(packed);
      const uint4 values = make_uint4(packed[0], packed[1], packed[2], packed[3]);
      if (epilogue.valid[half] && 8 * j0 < columns) *reinterpret_cast<uint4*>(to + 8 * j0) = values;
      if (page != nullptr && mine + 8 * j0 < buffers.D) {
        *reinterpret_cast<uint4*>(page + mine + 8 * j0) = values;
      }
    }
  }
};

}  // namespace sessa::cuda
