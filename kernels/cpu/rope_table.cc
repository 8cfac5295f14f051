#include "kernels/cpu/rope_table.h"

#include <cmath>

namespace sessa::cpu {

namespace {
constexpr int64_t kStep = 64;
}

RopeTable::RopeTable(const ModelShape& shape) : head_width_(shape.head_width()) {
  for (int32_t i = 0; i < head_width_ / 2; ++i) {
    theta_.push_back(static_cast<float>(std::pow(shape.rope_theta, -2.0 * i / head_width_)));
  }
  for (int64_t r = 0; r < kStep; ++r) {
    for (double theta : theta_) {
      const double angle = static_cast<double>(r) * theta;
      within_.push_back({std::cos(angle), std::sin(angle)});
    }
  }
}

void RopeTable::Reserve(int64_t position) {
  const int64_t pairs = static_cast<int64_t>(theta_.size());
  for (int64_t block = static_cast<int64_t>(blocks_.size()) / pairs; block <= position / kStep; ++block) {
    for (double theta : theta_) {
      const double angle = static_cast<double>(block * kStep) * theta;
      blocks_.push_back({std::cos(angle), std::sin(angle)});
    }
  }
}

void RopeTable::Fill(int64_t position, float* row) const {
  const int64_t pairs = static_cast<int64_t>(theta_.size());
  const Turn* block = &blocks_[position / kStep * pairs];
  const Turn* within = &within_[position % kStep * pairs];
  float* sines = row + row_width();
  for (int64_t i = 0; i < pairs; ++i) {
    const double cosine = block[i].cosine * within[i].cosine - block[i].sine * within[i].sine;
    const double sine = block[i].sine * within[i].cosine + block[i].cosine * within[i].sine;
    row[2 * i] = row[2 * i + 1] = static_cast<float>(cosine);
    sines[2 * i] = static_cast<float>(-sine);
    sines[2 * i + 1] = static_cast<float>(sine);
  }
  for (int32_t i = head_width_; i < row_width(); ++i) {
    row[i] = row[i - head_width_];
    sines[i] = sines[i - head_width_];
  }
}

}  // namespace sessa::cpu
