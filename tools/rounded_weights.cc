#include "tools/rounded_weights.h"

#include <cstring>
#include <utility>

#include "kernels/half.h"

namespace sessa {

RoundedWeights::RoundedWeights(const ModelTensors& tensors) : rounded_(tensors) {
  for (TensorView* tensor : {&rounded_.embed, &rounded_.norm_weight, &rounded_.norm_bias, &rounded_.head})
    Round(tensor);
  for (LayerTensors& layer : rounded_.layers) {
    for (TensorView* tensor :
         {&layer.ln_weight, &layer.ln_bias, &layer.w_in_weight, &layer.w_in_bias, &layer.q_weight,
          &layer.q_bias, &layer.k_weight, &layer.k_bias, &layer.v_weight, &layer.v_bias, &layer.fb_weight,
          &layer.fb_bias, &layer.out_weight, &layer.gamma_bias, &layer.gamma_weight, &layer.w_out_weight,
          &layer.w_out_bias}) {
      Round(tensor);
    }
  }
}

void RoundedWeights::Round(TensorView* tensor) {
  if (tensor->data == nullptr || tensor->dtype == DType::kBF16) return;
  int64_t count = 1;
  for (int64_t dim : tensor->dims) count *= dim;
  auto rounded = std::make_unique<uint16_t[]>(count);
  for (int64_t i = 0; i < count; ++i) {
    const char* in = static_cast<const char*>(tensor->data) + i * ByteSize(tensor->dtype);
    if (tensor->dtype == DType::kF32) {
      float value;
      std::memcpy(&value, in, sizeof value);
      rounded[i] = FloatToBF16(value);
    } else {
      uint16_t bits;
      std::memcpy(&bits, in, sizeof bits);
      rounded[i] = FloatToBF16(FP16ToFloat(bits));
    }
  }
  tensor->dtype = DType::kBF16;
  tensor->data = rounded.get();
  storage_.push_back(std::move(rounded));
}

}  // namespace sessa
