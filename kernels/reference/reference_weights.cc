#include "kernels/reference/reference_weights.h"

#include <cstring>

#include "kernels/half.h"

namespace sessa::reference {
namespace {

// `count` numbers in float32; empty when the tensor does not exist.
std::vector<float> ToFloat(const TensorView& tensor, int64_t count) {
  if (tensor.data == nullptr) return {};
  std::vector<float> out(count);
  if (tensor.dtype == DType::kF32) {
    std::memcpy(out.data(), tensor.data, count * sizeof(float));
    return out;
  }
  const char* in = static_cast<const char*>(tensor.data);  // a checkpoint need not align its tensors
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, in + 2 * i, sizeof bits);
    out[i] = tensor.dtype == DType::kBF16 ? BF16ToFloat(bits) : FP16ToFloat(bits);
  }
  return out;
}

Linear ToLinear(const TensorView& weight, const TensorView& bias, int32_t inputs, int32_t outputs) {
  if (weight.data == nullptr) return {};
  return {inputs, outputs, ToFloat(weight, int64_t{inputs} * outputs), ToFloat(bias, outputs)};
}

int64_t Bytes(const std::vector<float>& numbers) {
  return static_cast<int64_t>(numbers.size() * sizeof(float));
}

}  // namespace

int64_t Weights::bytes() const {
  int64_t sum = Bytes(embed) + Bytes(head) + Bytes(norm.weight) + Bytes(norm.bias);
  for (const LayerWeights& layer : layers) {
    sum += Bytes(layer.ln.weight) + Bytes(layer.ln.bias);
    for (const Linear* linear :
         {&layer.w_in, &layer.q, &layer.k, &layer.v, &layer.fb, &layer.out, &layer.gamma, &layer.w_out}) {
      sum += Bytes(linear->weight) + Bytes(linear->bias);
    }
  }
  return sum;
}

Weights ConvertWeights(const ModelShape& shape, const ModelTensors& tensors) {
  const int32_t d = shape.width, kv = shape.kv_width();
  const int64_t table = int64_t{shape.vocab} * d;
  Weights weights;
  weights.embed = ToFloat(tensors.embed, table);
  weights.norm = {ToFloat(tensors.norm_weight, d), ToFloat(tensors.norm_bias, d)};
  if (!shape.tied_head) weights.head = ToFloat(tensors.head, table);
  for (const LayerTensors& in : tensors.layers) {
    LayerWeights& out = weights.layers.emplace_back();
    out.ln = {ToFloat(in.ln_weight, d), ToFloat(in.ln_bias, d)};
    out.w_in = ToLinear(in.w_in_weight, in.w_in_bias, d, 2 * d);
    out.q = ToLinear(in.q_weight, in.q_bias, d, d);
    out.k = ToLinear(in.k_weight, in.k_bias, d, kv);
    out.v = ToLinear(in.v_weight, in.v_bias, d, kv);
    out.fb = ToLinear(in.fb_weight, in.fb_bias, d, 2 * d);
    if (shape.has_out_proj()) out.out = ToLinear(in.out_weight, TensorView{}, d, d);
    out.gamma = ToLinear(in.gamma_weight, in.gamma_bias, d, 1);
    out.w_out = ToLinear(in.w_out_weight, in.w_out_bias, d, d);
  }
  return weights;
}

}  // namespace sessa::reference
