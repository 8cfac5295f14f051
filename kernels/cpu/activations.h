// The activations of a step and the rows they belong to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/buffer.h"
#include "kernels/cpu/kernels.h"
#include "kernels/model_shape.h"

namespace sessa::cpu {

// An operand (kernels.h) is an array of bytes: bf16 or float32 as the kernels say. Every buffer has room for
// max_rows and becomes resident with the rows that are used.
struct Activations {
  Activations(const ModelShape& shape, int32_t max_rows, bool bf16, bool bf16_scores)
      : operand_bytes(bf16 ? 2 : 4),
        operand_stride((shape.width + 1) / 2 * 2),
        query_bytes(bf16_scores ? 2 : 4),
        gamma_panels((shape.width + kPanelOutputs - 1) / kPanelOutputs) {
    const int64_t numbers = int64_t{max_rows} * shape.width;
    const int64_t operands = int64_t{max_rows} * operand_stride * operand_bytes;
    for (Buffer<float>* buffer : {&x, &g, &f, &ctx}) *buffer = Buffer<float>(numbers);
    for (Buffer<std::byte>* buffer : {&abar, &o, &u}) *buffer = Buffer<std::byte>(operands);
    for (Buffer<std::byte>* buffer : {&q, &qb}) *buffer = Buffer<std::byte>(numbers * query_bytes);
    gamma_partial = Buffer<float>(int64_t{max_rows} * gamma_panels);
    for (Buffer<float>* buffer : {&gamma, &feedback_m, &feedback_l, &own_scale})
      *buffer = Buffer<float>(max_rows);
    own_p = Buffer<float>(int64_t{max_rows} * kBlock);
    rows.reserve(max_rows);
    positions.reserve(max_rows);
  }

  const int32_t operand_bytes;
  const int32_t operand_stride;  // numbers of an operand's row: even
  const int32_t query_bytes;
  const int32_t gamma_panels;

  // Of the rows of the batch.
  std::vector<RowState> rows;
  std::vector<int64_t> positions;

  Buffer<float> x;                       // (rows, D) residual stream
  Buffer<std::byte> abar;                // operand
  Buffer<float> g;                       // (rows, D)
  Buffer<float> gamma_partial, gamma;    // (rows, gamma_panels), (rows)
  Buffer<std::byte> q, qb;               // (rows, D) of float32 or bf16, with the softmax scale
  Buffer<std::byte> o;                   // operand: forward attention
  Buffer<float> f;                       // (rows, D): o W_o^T of prefill rows
  Buffer<float> ctx;                     // (rows, D): feedback attention, or its unfinished sums (prefill)
  Buffer<float> feedback_m, feedback_l;  // (rows): of the sums in ctx
  Buffer<float> own_p, own_scale;        // (rows, 64), (rows): the part of the row's own block
  Buffer<std::byte> u;                   // operand: s g

  void* Operand(Buffer<std::byte>& buffer, int64_t row) const {
    return buffer.data() + row * operand_stride * operand_bytes;
  }
};

}  // namespace sessa::cpu
