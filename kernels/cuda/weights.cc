#include "kernels/cuda/weights.h"

#include <cmath>
#include <cstring>
#include <initializer_list>

#include "kernels/half.h"

namespace sessa::cuda {
namespace {

constexpr int64_t kAlignment = 256;    // bytes; of each tensor on the device
constexpr int32_t kRowAlignment = 16;  // of a matrix's rows: tiles of the libraries' products

float NumberAt(const TensorView& tensor, int64_t i) {
  const char* data = static_cast<const char*>(tensor.data);
  if (tensor.dtype == DType::kF32) {
    float value;
    std::memcpy(&value, data + 4 * i, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data + 2 * i, sizeof bits);
  return tensor.dtype == DType::kBF16 ? BF16ToFloat(bits) : FP16ToFloat(bits);
}

int32_t RoundUp(int32_t n, int32_t to) { return (n + to - 1) / to * to; }

// A part of a matrix's outputs.
struct Rows {
  const TensorView* weight;
  const TensorView* bias;
  int32_t outputs;
};

}  // namespace

// Runs twice over the model: once to measure, once to copy.
class WeightPacker {
 public:
  WeightPacker(const ModelShape& shape, const ModelTensors& tensors) : shape_(shape), tensors_(tensors) {}

  absl::StatusOr<Weights> Run() {
    Weights weights;
    weights.pitch_ = RoundUp(shape_.width, 8);
    Pack(weights);
    absl::StatusOr<DeviceBuffer> memory = AllocateDevice(used_, "weights");
    if (!memory.ok()) return memory.status();
    base_ = memory->as();
    used_ = 0;
    weights.layers_.clear();
    Pack(weights);
    if (!status_.ok()) return status_;
    weights.memory_ = std::move(*memory);
    return weights;
  }

 private:
  void Pack(Weights& out) {
    const int32_t d = shape_.width, kv = shape_.kv_width(), pitch = out.pitch_;
    out.embed_ = PackMatrix({{&tensors_.embed, nullptr, shape_.vocab}}, pitch);
    out.head_ = shape_.tied_head ? out.embed_ : PackMatrix({{&tensors_.head, nullptr, shape_.vocab}}, pitch);
    out.norm_ = {PackFloats(tensors_.norm_weight, d), PackFloats(tensors_.norm_bias, d)};
    if (shape_.use_rope) out.theta_ = PackTheta();
    for (const LayerTensors& in : tensors_.layers) {
      LayerWeights& layer = out.layers_.emplace_back();
      layer.norm = {PackFloats(in.ln_weight, d), PackFloats(in.ln_bias, d)};
      layer.in = PackMatrix({{&in.w_in_weight, &in.w_in_bias, 2 * d}}, pitch);
      layer.project = PackMatrix({{&in.q_weight, &in.q_bias, d},
                                  {&in.k_weight, &in.k_bias, kv},
                                  {&in.v_weight, &in.v_bias, kv},
                                  {&in.fb_weight, &in.fb_bias, 2 * d},
                                  {&in.gamma_weight, &in.gamma_bias, 1}},
                                 pitch);
      if (shape_.has_out_proj()) layer.out = PackMatrix({{&in.out_weight, nullptr, d}}, pitch);
      layer.residual = PackMatrix({{&in.w_out_weight, &in.w_out_bias, d}}, pitch);
    }
  }

  Matrix PackMatrix(std::initializer_list<Rows> parts, int32_t pitch) {
    Matrix matrix;
    bool biased = false;
    for (const Rows& part : parts) {
      matrix.outputs += part.outputs;
      biased |= part.bias != nullptr;
    }
    matrix.padded_outputs = RoundUp(matrix.outputs, kRowAlignment);
    const int32_t d = shape_.width;
    std::vector<uint16_t> rows;
    std::vector<float> bias;
    if (base_ != nullptr) {
      rows.resize(int64_t{matrix.outputs} * pitch);
      int64_t row = 0;
      for (const Rows& part : parts) {
        for (int64_t n = 0; n < part.outputs; ++n, ++row) {
          for (int64_t i = 0; i < d; ++i) {
            rows[row * pitch + i] = FloatToBF16(NumberAt(*part.weight, n * d + i));
          }
          if (biased) bias.push_back(NumberAt(*part.bias, n));
        }
      }
    }
    matrix.weight =
        Place(rows.data(), 2 * int64_t{matrix.outputs} * pitch, 2 * int64_t{matrix.padded_outputs} * pitch);
    if (biased) {
      matrix.bias = static_cast<const float*>(
          Place(bias.data(), 4 * int64_t{matrix.outputs}, 4 * int64_t{matrix.padded_outputs}));
    }
    return matrix;
  }

  const float* PackFloats(const TensorView& tensor, int32_t count) {
    std::vector<float> numbers(count);
    if (base_ != nullptr) {
      for (int32_t i = 0; i < count; ++i) numbers[i] = NumberAt(tensor, i);
    }
    return static_cast<const float*>(Place(numbers.data(), 4 * int64_t{count}, 4 * int64_t{count}));
  }

  // theta_i = rope_theta^(-2i / d), in double, rounded to float32.
  const float* PackTheta() {
    std::vector<float> theta(shape_.head_width() / 2);
    for (size_t i = 0; i < theta.size(); ++i) {
      theta[i] = static_cast<float>(
          std::pow(shape_.rope_theta, -2.0 * static_cast<double>(i) / shape_.head_width()));
    }
    const int64_t bytes = 4 * static_cast<int64_t>(theta.size());
    return static_cast<const float*>(Place(theta.data(), bytes, bytes));
  }

  // Takes `reserved` bytes of the device's memory and, on the second run, copies `bytes` there.
  const void* Place(const void* data, int64_t bytes, int64_t reserved) {
    const int64_t offset = used_;
    used_ += (reserved + kAlignment - 1) / kAlignment * kAlignment;
    if (base_ == nullptr) return nullptr;
    if (status_.ok() && bytes > 0) {
      status_ = ToStatus(cudaMemcpy(base_ + offset, data, bytes, cudaMemcpyHostToDevice), "copying weights");
    }
    return base_ + offset;
  }

  const ModelShape& shape_;
  const ModelTensors& tensors_;
  char* base_ = nullptr;  // null while measuring
  int64_t used_ = 0;
  absl::Status status_;
};

absl::StatusOr<Weights> Weights::Load(const ModelShape& shape, const ModelTensors& tensors) {
  return WeightPacker(shape, tensors).Run();
}

}  // namespace sessa::cuda
