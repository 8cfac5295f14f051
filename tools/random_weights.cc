#include "tools/random_weights.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/half.h"

namespace sessa {
namespace {

int64_t Count(const std::vector<int64_t>& dims) {
  int64_t count = 1;
  for (int64_t dim : dims) count *= dim;
  return count;
}

}  // namespace

RandomWeights::RandomWeights(const ModelShape& shape, uint64_t seed) : state_(seed) {
  const int64_t d = shape.width, kv = shape.kv_width(), vocab = shape.vocab;
  const float bound = std::sqrt(3.0f / d);  // uniform in [-bound, bound) has the variance 1 / d
  tensors_.embed = Uniform({vocab, d}, 1.0f);
  if (!shape.tied_head) tensors_.head = Uniform({vocab, d}, bound);
  tensors_.norm_weight = Constant({d}, 1);
  tensors_.norm_bias = Constant({d}, 0);
  for (int32_t i = 0; i < shape.layers; ++i) {
    LayerTensors& layer = tensors_.layers.emplace_back();
    layer.ln_weight = Constant({d}, 1);
    layer.ln_bias = Constant({d}, 0);
    layer.w_in_weight = Uniform({2 * d, d}, bound);
    layer.w_in_bias = Uniform({2 * d}, 0.1f);
    layer.q_weight = Uniform({d, d}, bound);
    layer.q_bias = Uniform({d}, 0.1f);
    layer.k_weight = Uniform({kv, d}, bound);
    layer.k_bias = Uniform({kv}, 0.1f);
    layer.v_weight = Uniform({kv, d}, bound);
    layer.v_bias = Uniform({kv}, 0.1f);
    layer.fb_weight = Uniform({2 * d, d}, bound);
    layer.fb_bias = Uniform({2 * d}, 0.1f);
    if (shape.has_out_proj()) layer.out_weight = Uniform({d, d}, bound);
    layer.gamma_bias = Constant({}, 1);
    layer.gamma_weight = Uniform({1, d}, bound);
    layer.w_out_weight = Uniform({d, d}, bound);
    layer.w_out_bias = Uniform({d}, 0.1f);
  }
}

TensorView RandomWeights::Uniform(std::vector<int64_t> dims, float bound) {
  const int64_t count = Count(dims);
  auto numbers = std::make_unique<uint16_t[]>(count);
  for (int64_t i = 0; i < count; ++i) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    numbers[i] = FloatToBF16(static_cast<float>(static_cast<int32_t>(state_ >> 32)) * 0x1p-31f * bound);
  }
  storage_.push_back(std::move(numbers));
  return {DType::kBF16, std::move(dims), storage_.back().get()};
}

TensorView RandomWeights::Constant(std::vector<int64_t> dims, float value) {
  const int64_t count = Count(dims);
  storage_.push_back(std::make_unique<uint16_t[]>(count));
  std::fill_n(storage_.back().get(), count, FloatToBF16(value));
  return {DType::kBF16, std::move(dims), storage_.back().get()};
}

}  // namespace sessa
