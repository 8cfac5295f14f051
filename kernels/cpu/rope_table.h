// Cosines and sines of the rotary embedding.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/model_shape.h"

namespace sessa::cpu {

// For position t = 64 b + r the angle t theta_i is the sum of two whose cosine and sine are tabulated in
// double precision, so a row costs a few multiplications and is as exact as std::cos of the whole angle.
// theta_i = rope_theta^(-2i/d), rounded to float32, as docs/sessa-model.md says.
class RopeTable {
 public:
  explicit RopeTable(const ModelShape& shape);  // REQUIRES: shape.use_rope

  // Numbers in half a row: head width + 16, so that 16 numbers can be read from any place of a head.
  int32_t row_width() const { return head_width_ + 16; }
  // Makes positions up to `position` available to Fill.
  void Reserve(int64_t position);
  // Writes row_width() cosines, then row_width() sines (negated at even places). Any thread, positions
  // reserved.
  void Fill(int64_t position, float* row) const;

 private:
  struct Turn {
    double cosine, sine;
  };
  const int32_t head_width_;
  std::vector<double> theta_;  // (d / 2)
  std::vector<Turn> within_;   // (64, d / 2), of r theta
  std::vector<Turn> blocks_;   // (blocks, d / 2), of 64 b theta
};

}  // namespace sessa::cpu
