// Device kernels of the tests: random numbers, filling pages, and float64 solutions, as plain as can be.
#pragma once

#include <cstdint>

#include "kernels/cuda/prefill.h"

namespace sessa::cuda {

// out[i] = scale * normal(seed, i), rounded to bf16 (round = 1) or fp16 (round = 2).
void FillNormal(float* out, int64_t count, uint64_t seed, float scale, int round);
// to[i, :] = bf16 of scale * from[i - shift, :] (rows before the first: of normal numbers) for rows [0,
// rows).
void ShiftedQueries(uint16_t* to, const float* kb, int64_t rows, int64_t start, int width, int shift,
                    float scale, uint64_t seed);
// The rows [first, end) of a plane of one session, from dense float32 (positions, width) to its pages.
void ToPages(char* plane, int64_t page_bytes, const int32_t* pages, const float* dense, int first, int end,
             int width, DType dtype);
void ToBf16(uint16_t* to, const float* from, int64_t count);

struct ReferenceSegment {
  int rows, start, D, heads, kv_heads;
  const float *k, *v, *kb;  // (start + rows, kv or D)
  const float* past_s;      // (start, D)
  const uint16_t *q, *qb;   // (rows, D) bf16
  const float *gamma, *f;   // (rows), (rows, D)
};
// out (rows, D) float64.
void ReferenceForward(const ReferenceSegment& segment, double* out);
void ReferenceFeedback(const ReferenceSegment& segment, double* out);

}  // namespace sessa::cuda
