#include "kernels/reference/reference_math.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/state_layout.h"

namespace sessa::reference {

float Dot(const float* a, const float* b, int32_t n) {
  constexpr int32_t kLanes = 16;  // interleaved partial sums: less rounding, and the compiler may vectorise
  float lanes[kLanes] = {};
  int32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  }
  for (int32_t lane = 0; i < n; ++i, ++lane) lanes[lane] += a[i] * b[i];
  for (int32_t half = kLanes / 2; half > 0; half /= 2) {
    for (int32_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

void Apply(const Linear& linear, const float* x, int32_t rows, float* y) {
  for (int32_t o = 0; o < linear.outputs; ++o) {
    const float* weight = linear.weight.data() + int64_t{o} * linear.inputs;
    const float bias = linear.bias.empty() ? 0.0f : linear.bias[o];
    for (int32_t r = 0; r < rows; ++r) {
      y[int64_t{r} * linear.outputs + o] = Dot(x + int64_t{r} * linear.inputs, weight, linear.inputs) + bias;
    }
  }
}

void LayerNorm(const Norm& norm, float eps, const float* x, int32_t width, float* y) {
  const double mean = std::accumulate(x, x + width, 0.0) / width;
  double variance = 0;
  for (int32_t i = 0; i < width; ++i) variance += (x[i] - mean) * (x[i] - mean);
  const double scale = 1.0 / std::sqrt(variance / width + eps);
  for (int32_t i = 0; i < width; ++i) {
    y[i] = static_cast<float>((x[i] - mean) * scale) * norm.weight[i] + norm.bias[i];
  }
}

float Gelu(float x) {
  constexpr float kSqrtHalf = 0.70710678118654752f;
  return 0.5f * x *
         std::erfc(-x * kSqrtHalf);  // = x/2 (1 + erf(x / sqrt 2)), without its cancellation for x << 0
}

std::vector<float> RopeFrequencies(const ModelShape& shape) {
  const int32_t d = shape.head_width();
  std::vector<float> theta(d / 2);
  for (int32_t i = 0; i < d / 2; ++i) theta[i] = static_cast<float>(std::pow(shape.rope_theta, -2.0 * i / d));
  return theta;
}

void Rope(const std::vector<float>& theta, int64_t position, int32_t width, float* x) {
  const int32_t head_width = 2 * static_cast<int32_t>(theta.size());
  for (size_t i = 0; i < theta.size(); ++i) {
    const double angle = static_cast<double>(position) * theta[i];
    const float cosine = static_cast<float>(std::cos(angle)), sine = static_cast<float>(std::sin(angle));
    for (int32_t head = 0; head < width; head += head_width) {
      float* pair = x + head + 2 * i;
      const float even = pair[0], odd = pair[1];
      pair[0] = even * cosine - odd * sine;
      pair[1] = even * sine + odd * cosine;
    }
  }
}

void BlockSoftmax::Reset() {
  max_ = -std::numeric_limits<float>::infinity();
  sum_ = 0;
  std::fill(out_.begin(), out_.end(), 0.0f);
}

void BlockSoftmax::Merge(const float* scores, int32_t rows, const float* values, int32_t stride) {
  const int32_t width = static_cast<int32_t>(out_.size());
  const float block_max = *std::max_element(scores, scores + rows);
  float block_sum = 0;
  std::fill(block_.begin(), block_.end(), 0.0f);
  for (int32_t j = 0; j < rows; ++j) {
    const float p = std::exp(scores[j] - block_max);
    const float* value = values + int64_t{j} * stride;
    block_sum += p;
    for (int32_t i = 0; i < width; ++i) block_[i] += p * value[i];
  }
  const float merged_max = std::max(max_, block_max);
  const float keep = std::exp(max_ - merged_max), take = std::exp(block_max - merged_max);
  for (int32_t i = 0; i < width; ++i) out_[i] = out_[i] * keep + block_[i] * take;
  sum_ = sum_ * keep + block_sum * take;
  max_ = merged_max;
}

void BlockSoftmax::Finish(float* out) const {
  for (size_t i = 0; i < out_.size(); ++i) out[i] = out_[i] / sum_;
}

}  // namespace sessa::reference
