// What a thread does with two neighbouring outputs of a linear layer (n even; n + 1 may lie beyond the last).
// What it takes beside the product, its operands, can be loaded while the product is still being made.
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

// `from[n]` and the next, if there is one below `end`.
__device__ __forceinline__ float2 LoadPair(const float* from, int64_t n, int64_t end) {
  return make_float2(from[n], n + 1 < end ? from[n + 1] : 0.0f);
}

struct InEpilogue : InEpilogueParams {
  using Operands = float2;  // biases
  explicit InEpilogue(const InEpilogueParams& params) : InEpilogueParams(params) {}

  __device__ Operands Load(int, int n, int outputs) const { return LoadPair(bias, n, outputs); }
  __device__ void One(int row, int n, float y) const {
    if (n < width) {
      static_cast<bf16*>(abar)[static_cast<int64_t>(row) * pitch + n] = __float2bfloat16_rn(Gelu(y));
    } else {
      g[static_cast<int64_t>(row) * width + n - width] = y;
    }
  }
  __device__ void Apply(const Operands& b, int row, int n, float y0, float y1, int outputs) const {
    One(row, n, y0 + b.x);
    if (n + 1 < outputs) One(row, n + 1, y1 + b.y);
  }
};

struct ProjectEpilogue : ProjectEpilogueParams {
  struct Operands {
    float2 bias, turn;
    int64_t page;
    RowMeta meta;
  };
  explicit ProjectEpilogue(const ProjectEpilogueParams& params) : ProjectEpilogueParams(params) {}

  __device__ bool Turns(int n) const { return rotation != nullptr && n < state.width + state.kv; }
  __device__ Operands Load(int row, int n, int outputs) const {
    Operands operands;
    operands.bias = LoadPair(bias, n, outputs);
    if (Turns(n)) {  // the head width is even
      operands.turn = rotation[static_cast<int64_t>(row) * (head_width / 2) + (n % head_width) / 2];
    }
    operands.meta = rows[row];
    operands.page = OwnPage(operands.meta, pages);
    return operands;
  }
  __device__ void StoreQuery(float* wide, void* narrow, int row, int column, float y) const {
    const int64_t at = static_cast<int64_t>(row) * state.width + column;
    if (wide != nullptr) {
      wide[at] = y;
    } else {
      static_cast<bf16*>(narrow)[at] = __float2bfloat16_rn(y);
    }
  }
  // Output n of the concatenation, its bias added and rotated.
  __device__ void Place(const Operands& own, int row, int n, float y) const {
    const int d = state.width, kv = state.kv;
    if (n < d) return StoreQuery(q, q_bf16, row, n, y);
    n -= d;
    if (n >= 2 * kv && n < 2 * kv + d) return StoreQuery(qb, qb_bf16, row, n - 2 * kv, y);
    if (n == 2 * kv + 2 * d) {
      gamma[row] = gamma_max * tanhf(y);
      return;
    }
    const auto plane = [&](int64_t begin, int width) {
      return StateRow(state, own.meta, own.page, begin, width);
    };
    if (n < kv) return StoreNumber(state, plane(state.k, kv), n, y);
    if (n < 2 * kv) return StoreNumber(state, plane(state.v, kv), n - kv, y);
    StoreNumber(state, plane(state.kb, d), n - 2 * kv - d, y);
  }
  __device__ void Apply(const Operands& own, int row, int n, float y0, float y1, int outputs) const {
    y0 += own.bias.x;
    if (n + 1 < outputs) y1 += own.bias.y;
    if (Turns(n)) {
      const float2 turned = Rotate(make_float2(y0, y1), own.turn);
      y0 = turned.x;
      y1 = turned.y;
    }
    Place(own, row, n, y0);
    if (n + 1 < outputs) Place(own, row, n + 1, y1);
  }
};

struct FeedbackEpilogue : FeedbackEpilogueParams {
  struct Operands {
    float2 ctx, g;
    float gamma;
    int64_t page;
    RowMeta meta;
  };
  explicit FeedbackEpilogue(const FeedbackEpilogueParams& params) : FeedbackEpilogueParams(params) {}

  __device__ Operands Load(int row, int n, int outputs) const {
    const int64_t at = static_cast<int64_t>(row) * state.width;
    Operands operands;
    operands.ctx = LoadPair(ctx + at, n, outputs);
    operands.g = LoadPair(g + at, n, outputs);
    operands.gamma = gamma[row];
    operands.meta = rows[row];
    operands.page = OwnPage(operands.meta, pages);
    return operands;
  }
  __device__ void One(const Operands& own, int row, int n, float f, float context, float gate) const {
    const float s = fmaf(own.gamma, context, f);
    static_cast<bf16*>(u)[static_cast<int64_t>(row) * pitch + n] = __float2bfloat16_rn(s * gate);
    StoreFeedback(state, own.meta, own.page, n, s, saturations);
  }
  __device__ void Apply(const Operands& own, int row, int n, float y0, float y1, int outputs) const {
    One(own, row, n, y0, own.ctx.x, own.g.x);
    if (n + 1 < outputs) One(own, row, n + 1, y1, own.ctx.y, own.g.y);
  }
};

struct ResidualEpilogue : ResidualEpilogueParams {
  struct Operands {
    float2 bias, x;
  };
  explicit ResidualEpilogue(const ResidualEpilogueParams& params) : ResidualEpilogueParams(params) {}

  __device__ Operands Load(int row, int n, int outputs) const {
    return {LoadPair(bias, n, outputs), LoadPair(x + static_cast<int64_t>(row) * width, n, outputs)};
  }
  __device__ void Apply(const Operands& own, int row, int n, float y0, float y1, int outputs) const {
    float* at = x + static_cast<int64_t>(row) * width + n;
    at[0] = own.x.x + (y0 + own.bias.x);
    if (n + 1 < outputs) at[1] = own.x.y + (y1 + own.bias.y);
  }
};

struct StoreEpilogue : StoreEpilogueParams {
  struct Operands {};
  explicit StoreEpilogue(const StoreEpilogueParams& params) : StoreEpilogueParams(params) {}

  __device__ Operands Load(int, int, int) const { return {}; }
  __device__ void Apply(const Operands&, int row, int n, float y0, float y1, int outputs) const {
    out[row * pitch + n] = y0;
    if (n + 1 < outputs) out[row * pitch + n + 1] = y1;
  }
};

}  // namespace sessa::cuda
