#include "tests/kernels/dense_model.h"

#include <cmath>
#include <cstring>

#include "kernels/half.h"

namespace sessa {
namespace {

using Rows = std::vector<std::vector<double>>;

double At(const TensorView& tensor, int64_t i) {
  if (tensor.data == nullptr) return 0;
  if (tensor.dtype == DType::kF32) return static_cast<const float*>(tensor.data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(tensor.data)[i];
  return tensor.dtype == DType::kBF16 ? BF16ToFloat(bits) : FP16ToFloat(bits);
}

// x weight^T + bias, outputs [first, first + count) of the weight's rows.
Rows Linear(const Rows& x, const TensorView& weight, const TensorView& bias, int32_t first, int32_t count) {
  Rows y;
  for (const std::vector<double>& row : x) {
    std::vector<double>& out = y.emplace_back(count);
    for (int32_t o = 0; o < count; ++o) {
      out[o] = At(bias, first + o);
      for (size_t i = 0; i < row.size(); ++i) out[o] += row[i] * At(weight, (first + o) * row.size() + i);
    }
  }
  return y;
}

Rows Norm(const Rows& x, const TensorView& weight, const TensorView& bias, double eps) {
  Rows y = x;
  for (std::vector<double>& row : y) {
    double mean = 0, variance = 0;
    for (double value : row) mean += value / row.size();
    for (double value : row) variance += (value - mean) * (value - mean) / row.size();
    for (size_t i = 0; i < row.size(); ++i) {
      row[i] = (row[i] - mean) / std::sqrt(variance + eps) * At(weight, i) + At(bias, i);
    }
  }
  return y;
}

void Rope(const ModelShape& shape, Rows* x) {
  const int32_t d = shape.head_width();
  for (size_t t = 0; t < x->size(); ++t) {
    for (size_t i = 0; i < (*x)[t].size(); i += 2) {
      const float theta = static_cast<float>(std::pow(shape.rope_theta, -static_cast<double>(i % d) / d));
      const double angle = t * double{theta}, even = (*x)[t][i], odd = (*x)[t][i + 1];
      (*x)[t][i] = even * std::cos(angle) - odd * std::sin(angle);
      (*x)[t][i + 1] = even * std::sin(angle) + odd * std::cos(angle);
    }
  }
}

// softmax over j < count of scale q . k_j, on columns [q_first, q_first + width) and [k_first, ...).
std::vector<double> Softmax(const std::vector<double>& q, int32_t q_first, const Rows& k, int32_t k_first,
                            int32_t width, size_t count) {
  std::vector<double> p(count);
  double max = -INFINITY, sum = 0;
  for (size_t j = 0; j < count; ++j) {
    for (int32_t i = 0; i < width; ++i) p[j] += q[q_first + i] * k[j][k_first + i] / std::sqrt(double(width));
    max = std::max(max, p[j]);
  }
  for (double& value : p) sum += value = std::exp(value - max);
  for (double& value : p) value /= sum;
  return p;
}

Rows Mixer(const ModelShape& shape, const LayerTensors& w, const Rows& abar) {
  const int32_t d = shape.width, kv = shape.kv_width(), head = shape.head_width();
  Rows q = Linear(abar, w.q_weight, w.q_bias, 0, d), k = Linear(abar, w.k_weight, w.k_bias, 0, kv);
  const Rows v = Linear(abar, w.v_weight, w.v_bias, 0, kv);
  const Rows qb = Linear(abar, w.fb_weight, w.fb_bias, 0, d), kb = Linear(abar, w.fb_weight, w.fb_bias, d, d);
  const Rows gamma = Linear(abar, w.gamma_weight, w.gamma_bias, 0, 1);
  if (shape.use_rope) {
    Rope(shape, &q);
    Rope(shape, &k);
  }
  Rows o(abar.size(), std::vector<double>(d));
  for (size_t t = 0; t < abar.size(); ++t) {
    for (int32_t h = 0; h < shape.heads; ++h) {
      const int32_t from = h / (shape.heads / shape.kv_heads) * head;
      const std::vector<double> p = Softmax(q[t], h * head, k, from, head, t + 1);
      for (size_t j = 0; j <= t; ++j) {
        for (int32_t i = 0; i < head; ++i) o[t][h * head + i] += p[j] * v[j][from + i];
      }
    }
  }
  Rows s = shape.has_out_proj() ? Linear(o, w.out_weight, TensorView{}, 0, d) : o;
  for (size_t t = 1; t < s.size(); ++t) {
    const std::vector<double> p = Softmax(qb[t], 0, kb, 0, d, t);
    for (size_t j = 0; j < t; ++j) {
      for (int32_t i = 0; i < d; ++i) s[t][i] += shape.gamma_max * std::tanh(gamma[t][0]) * p[j] * s[j][i];
    }
  }
  return s;
}

void Append(const Rows& rows, std::vector<float>* out) {
  for (const std::vector<double>& row : rows) out->insert(out->end(), row.begin(), row.end());
}

}  // namespace

DenseResult RunDense(const ModelShape& shape, const ModelTensors& tensors, absl::Span<const int32_t> tokens) {
  const int32_t d = shape.width;
  DenseResult result;
  Rows x;
  for (int32_t token : tokens) {
    std::vector<double>& row = x.emplace_back(d);
    for (int32_t i = 0; i < d; ++i) row[i] = At(tensors.embed, int64_t{token} * d + i);
  }
  for (const LayerTensors& w : tensors.layers) {
    const Rows n = Norm(x, w.ln_weight, w.ln_bias, shape.norm_eps);
    Rows abar = Linear(n, w.w_in_weight, w.w_in_bias, 0, d);
    const Rows g = Linear(n, w.w_in_weight, w.w_in_bias, d, d);
    for (std::vector<double>& row : abar) {
      for (double& a : row) a = 0.5 * a * (1 + std::erf(a / std::sqrt(2.0)));
    }
    Rows s = Mixer(shape, w, abar);
    Append(s, &result.s.emplace_back());
    for (size_t t = 0; t < s.size(); ++t) {
      for (int32_t i = 0; i < d; ++i) s[t][i] *= g[t][i];
    }
    const Rows y = Linear(s, w.w_out_weight, w.w_out_bias, 0, d);
    for (size_t t = 0; t < x.size(); ++t) {
      for (int32_t i = 0; i < d; ++i) x[t][i] += y[t][i];
    }
  }
  const TensorView& head = shape.tied_head ? tensors.embed : tensors.head;
  const Rows n = Norm(x, tensors.norm_weight, tensors.norm_bias, shape.norm_eps);
  Append(Linear(n, head, TensorView{}, 0, shape.vocab), &result.logits);
  return result;
}

}  // namespace sessa
