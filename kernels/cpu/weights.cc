#include "kernels/cpu/weights.h"

#include <algorithm>
#include <cstring>

#include "kernels/half.h"

namespace sessa::cpu {
namespace {

int32_t RoundUp(int32_t n, int32_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Number i of a tensor, which need not be aligned.
float At(const TensorView& tensor, int64_t i) {
  const char* in = static_cast<const char*>(tensor.data);
  if (tensor.dtype == DType::kF32) {
    float value;
    std::memcpy(&value, in + 4 * i, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, in + 2 * i, sizeof bits);
  return tensor.dtype == DType::kBF16 ? BF16ToFloat(bits) : FP16ToFloat(bits);
}

Buffer<float> ToFloat(const TensorView& tensor, int32_t count, int32_t padded) {
  Buffer<float> out(padded);
  for (int32_t i = 0; i < count; ++i) out[i] = At(tensor, i);
  return out;
}

// Rows [begin, begin + count) of a linear layer.
struct Part {
  const TensorView &weight, &bias;
  int32_t begin, count;
};

// One after the other, each beginning at a multiple of 16 outputs.
PackedMatrix Pack(std::initializer_list<Part> parts, int32_t inputs, bool bf16) {
  int32_t outputs = 0;
  for (const Part& part : parts) outputs += RoundUp(part.count, kLanes);
  PackedMatrix packed;
  Matrix& view = packed.view;
  view.inputs = bf16 ? RoundUp(inputs, 2) : inputs;
  view.panels = RoundUp(outputs, kPanelOutputs) / kPanelOutputs;
  view.bytes_per_panel = int64_t{view.inputs} * kPanelOutputs * (bf16 ? 2 : 4);
  packed.data = Buffer<std::byte>(view.panels * view.bytes_per_panel);
  packed.bias = Buffer<float>(view.panels * kPanelOutputs);
  view.data = packed.data.data();
  view.bias = packed.bias.data();
  int32_t first = 0;
  for (const Part& part : parts) {
    for (int32_t i = 0; i < part.count; ++i) {
      const int32_t output = first + i;
      std::byte* panel = packed.data.data() + output / kPanelOutputs * view.bytes_per_panel;
      const int32_t lane = output % kPanelOutputs;
      for (int32_t k = 0; k < inputs; ++k) {
        const float value = At(part.weight, int64_t{part.begin + i} * inputs + k);
        if (bf16) {
          const int64_t index = int64_t{k / 2} * 2 * kPanelOutputs + 2 * lane + k % 2;
          reinterpret_cast<uint16_t*>(panel)[index] = FloatToBF16(value);
        } else {
          reinterpret_cast<float*>(panel)[int64_t{k} * kPanelOutputs + lane] = value;
        }
      }
      if (part.bias.data != nullptr) packed.bias[output] = At(part.bias, part.begin + i);
    }
    first += RoundUp(part.count, kLanes);
  }
  return packed;
}

std::vector<SectionVec> ProjectSections(const ModelShape& shape) {
  std::vector<SectionVec> sections;
  const auto add = [&](Section section, int32_t width) {
    for (int32_t c = 0; c < width; c += kLanes) {
      sections.push_back({section, static_cast<uint8_t>(std::min(kLanes, width - c)), c});
    }
  };
  add(Section::kQuery, shape.width);
  add(Section::kKey, shape.kv_width());
  add(Section::kValue, shape.kv_width());
  add(Section::kFeedbackQuery, shape.width);
  add(Section::kFeedbackKey, shape.width);
  while (sections.size() % (kPanelOutputs / kLanes) != 0) sections.push_back({Section::kQuery, 0, 0});
  return sections;
}

LayerWeights PackLayer(const ModelShape& shape, const LayerTensors& in, bool bf16) {
  const int32_t d = shape.width, kv = shape.kv_width();
  const TensorView none;
  LayerWeights out;
  out.norm_weight = ToFloat(in.ln_weight, d, d);
  out.norm_bias = ToFloat(in.ln_bias, d, d);
  out.w_in = Pack({{in.w_in_weight, in.w_in_bias, 0, d}, {in.w_in_weight, in.w_in_bias, d, d}}, d, bf16);
  out.project = Pack({{in.q_weight, in.q_bias, 0, d},
                      {in.k_weight, in.k_bias, 0, kv},
                      {in.v_weight, in.v_bias, 0, kv},
                      {in.fb_weight, in.fb_bias, 0, d},
                      {in.fb_weight, in.fb_bias, d, d}},
                     d, bf16);
  if (shape.has_out_proj()) out.out = Pack({{in.out_weight, none, 0, d}}, d, bf16);
  out.w_out = Pack({{in.w_out_weight, in.w_out_bias, 0, d}}, d, bf16);
  out.gamma_weight = ToFloat(in.gamma_weight, d, RoundUp(d, kLanes));
  out.gamma_bias = At(in.gamma_bias, 0);
  return out;
}

int64_t Bytes(const PackedMatrix& matrix) { return matrix.data.bytes() + matrix.bias.bytes(); }

}  // namespace

int64_t Weights::bytes() const {
  int64_t sum = norm_weight.bytes() + norm_bias.bytes() + Bytes(head) + embed.bytes();
  for (const LayerWeights& layer : layers) {
    sum += layer.norm_weight.bytes() + layer.norm_bias.bytes() + Bytes(layer.w_in) + Bytes(layer.project) +
           Bytes(layer.out) + Bytes(layer.w_out) + layer.gamma_weight.bytes();
  }
  return sum;
}

Weights PackWeights(const ModelShape& shape, const ModelTensors& tensors, bool bf16) {
  Weights weights;
  for (const LayerTensors& layer : tensors.layers) weights.layers.push_back(PackLayer(shape, layer, bf16));
  weights.sections = ProjectSections(shape);
  weights.norm_weight = ToFloat(tensors.norm_weight, shape.width, shape.width);
  weights.norm_bias = ToFloat(tensors.norm_bias, shape.width, shape.width);
  const TensorView none;
  const TensorView& head = shape.tied_head ? tensors.embed : tensors.head;
  weights.head = Pack({{head, none, 0, shape.vocab}}, shape.width, bf16);
  const int64_t numbers = int64_t{shape.vocab} * shape.width;
  if (tensors.embed.dtype == DType::kBF16) {
    weights.embed_dtype = DType::kBF16;
    weights.embed = Buffer<std::byte>(2 * numbers);
    std::memcpy(weights.embed.data(), tensors.embed.data, 2 * numbers);
  } else {
    weights.embed = Buffer<std::byte>(4 * numbers);
    float* out = reinterpret_cast<float*>(weights.embed.data());
    for (int64_t i = 0; i < numbers; ++i) out[i] = At(tensors.embed, i);
  }
  return weights;
}

bool AllBF16(const ModelTensors& tensors) {
  const auto bf16 = [](const TensorView& tensor) {
    return tensor.data == nullptr || tensor.dtype == DType::kBF16;
  };
  bool all = bf16(tensors.embed) && bf16(tensors.head);
  for (const LayerTensors& layer : tensors.layers) {
    all = all && bf16(layer.w_in_weight) && bf16(layer.q_weight) && bf16(layer.k_weight) &&
          bf16(layer.v_weight) && bf16(layer.fb_weight) && bf16(layer.out_weight) && bf16(layer.w_out_weight);
  }
  return all;
}

}  // namespace sessa::cpu
