// What a thread does with two neighbouring outputs of a linear layer (n even; n + 1 may lie beyond the last).
#pragma once

#include "kernels/cuda/device_math.cuh"
#include "kernels/cuda/kernels.h"

namespace sessa::cuda {

// The page that a row's own token lies in.
__device__ __forceinline__ int64_t OwnPage(const RowMeta& meta, const int32_t* pages) {
  return pages[meta.page_begin + (meta.position >> 6)];
}

// First byte of a row's own token in a plane that begins at `plane` in its page and is `width` numbers wide.
__device__ __forceinline__ char* StateRow(const LayerState& state, const RowMeta& meta, int64_t own_page,
                                          int64_t plane, int32_t width) {
  return state.pages + own_page * state.page_bytes + plane +
         static_cast<int64_t>(meta.position & 63) * width * (state.f32 ? 4 : 2);
}

__device__ __forceinline__ void StoreNumber(const LayerState& state, char* row, int32_t column, float value) {
  if (state.f32) {
    reinterpret_cast<float*>(row)[column] = value;
  } else {
    reinterpret_cast<bf16*>(row)[column] = __float2bfloat16_rn(value);
  }
}

// s of column n to its page; in compact state as fp16 and, for readers in the same block, as float32.
__device__ __forceinline__ void StoreFeedback(const LayerState& state, const RowMeta& meta, int64_t own_page,
                                              int32_t n, float s, unsigned long long* saturations) {
  char* stored = StateRow(state, meta, own_page, state.s, state.width);
  if (state.f32) {
    reinterpret_cast<float*>(stored)[n] = s;
    return;
  }
  int saturated = 0;
  reinterpret_cast<__half*>(stored)[n] = ToHalfSaturated(s, saturated);
  if (saturated != 0 && meta.live != 0) atomicAdd(saturations, 1ull);
  char* open = state.open_pages + meta.open_page * state.open_page_bytes + state.open_s;
  reinterpret_cast<float*>(open)[static_cast<int64_t>(meta.position & 63) * state.width + n] = s;
}

// The token of a row.
__device__ __forceinline__ int TokenOf(const RowMeta& meta, const int32_t* slots, int32_t vocab) {
  const int token = meta.slot >= 0 ? slots[meta.slot] : meta.token;
  return token < 0 || token >= vocab ? 0 : token;  // what follows a draw from logits that were not finite
}

// (cosine, sine) of position * theta: angles up to the position, so in double.
__device__ __forceinline__ float2 TurnOf(int32_t position, float theta) {
  double sine, cosine;
  sincos(static_cast<double>(position) * static_cast<double>(theta), &sine, &cosine);
  return make_float2(static_cast<float>(cosine), static_cast<float>(sine));
}

// Columns 2 i and 2 i + 1 of a head, turned by (cosine, sine). Rounded in one way wherever it is used.
__device__ __forceinline__ float2 Rotate(float2 y, float2 turn) {
  return make_float2(__fmaf_rn(y.x, turn.x, -__fmul_rn(y.y, turn.y)),
                     __fmaf_rn(y.x, turn.y, __fmul_rn(y.y, turn.x)));
}

struct InEpilogue : InEpilogueParams {
  explicit InEpilogue(const InEpilogueParams& params) : InEpilogueParams(params) {}

  __device__ void One(int row, int n, float y) const {
    y += bias[n];
    if (n < width) {
      static_cast<bf16*>(abar)[static_cast<int64_t>(row) * pitch + n] = __float2bfloat16_rn(Gelu(y));
    } else {
      g[static_cast<int64_t>(row) * width + n - width] = y;
    }
  }
  __device__ void operator()(int row, int n, float y0, float y1, int outputs) const {
    One(row, n, y0);
    if (n + 1 < outputs) One(row, n + 1, y1);
  }
};

struct ProjectEpilogue : ProjectEpilogueParams {
  explicit ProjectEpilogue(const ProjectEpilogueParams& params) : ProjectEpilogueParams(params) {}

  __device__ void StoreQuery(float* wide, void* narrow, int row, int column, float y) const {
    const int64_t at = static_cast<int64_t>(row) * state.width + column;
    if (wide != nullptr) {
      wide[at] = y;
    } else {
      static_cast<bf16*>(narrow)[at] = __float2bfloat16_rn(y);
    }
  }
  // Output n of the concatenation, its bias added and rotated.
  __device__ void Place(int row, int n, float y) const {
    const int d = state.width, kv = state.kv;
    if (n < d) return StoreQuery(q, q_bf16, row, n, y);
    n -= d;
    if (n >= 2 * kv && n < 2 * kv + d) return StoreQuery(qb, qb_bf16, row, n - 2 * kv, y);
    if (n == 2 * kv + 2 * d) {
      gamma[row] = gamma_max * tanhf(y);
      return;
    }
    const RowMeta meta = rows[row];
    const int64_t page = OwnPage(meta, pages);
    if (n < kv) return StoreNumber(state, StateRow(state, meta, page, state.k, kv), n, y);
    if (n < 2 * kv) return StoreNumber(state, StateRow(state, meta, page, state.v, kv), n - kv, y);
    StoreNumber(state, StateRow(state, meta, page, state.kb, d), n - 2 * kv - d, y);
  }
  __device__ void operator()(int row, int n, float y0, float y1, int outputs) const {
    y0 += bias[n];
    if (n + 1 < outputs) y1 += bias[n + 1];
    if (rotation != nullptr && n < state.width + state.kv) {  // the head width is even
      const float2 turned = Rotate(
          make_float2(y0, y1), rotation[static_cast<int64_t>(row) * (head_width / 2) + (n % head_width) / 2]);
      y0 = turned.x;
      y1 = turned.y;
    }
    Place(row, n, y0);
    if (n + 1 < outputs) Place(row, n + 1, y1);
  }
};

struct FeedbackEpilogue : FeedbackEpilogueParams {
  explicit FeedbackEpilogue(const FeedbackEpilogueParams& params) : FeedbackEpilogueParams(params) {}

  __device__ void One(const RowMeta& meta, int row, int n, float f) const {
    const int64_t at = static_cast<int64_t>(row) * state.width + n;
    const float s = fmaf(gamma[row], ctx[at], f);
    static_cast<bf16*>(u)[static_cast<int64_t>(row) * pitch + n] = __float2bfloat16_rn(s * g[at]);
    StoreFeedback(state, meta, OwnPage(meta, pages), n, s, saturations);
  }
  __device__ void operator()(int row, int n, float y0, float y1, int outputs) const {
    const RowMeta meta = rows[row];
    One(meta, row, n, y0);
    if (n + 1 < outputs) One(meta, row, n + 1, y1);
  }
};

struct ResidualEpilogue : ResidualEpilogueParams {
  explicit ResidualEpilogue(const ResidualEpilogueParams& params) : ResidualEpilogueParams(params) {}

  __device__ void operator()(int row, int n, float y0, float y1, int outputs) const {
    float* at = x + static_cast<int64_t>(row) * width + n;
    at[0] += y0 + bias[n];
    if (n + 1 < outputs) at[1] += y1 + bias[n + 1];
  }
};

struct StoreEpilogue : StoreEpilogueParams {
  explicit StoreEpilogue(const StoreEpilogueParams& params) : StoreEpilogueParams(params) {}

  __device__ void operator()(int row, int n, float y0, float y1, int outputs) const {
    out[row * pitch + n] = y0;
    if (n + 1 < outputs) out[row * pitch + n + 1] = y1;
  }
};

}  // namespace sessa::cuda
