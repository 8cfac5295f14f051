// The attentions of decode rows and what becomes of the feedback, as plain loops in float32, for the stand-in
// for CUDA.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cuda/kernels.h"
#include "kernels/half.h"
#include "kernels/state_layout.h"
#include "tests/kernels/cuda/fake_cuda.h"

namespace sessa::cuda {
namespace {

float NumberAt(const char* row, DType dtype, int32_t column) {
  if (dtype == DType::kF32) return reinterpret_cast<const float*>(row)[column];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(row)[column];
  return dtype == DType::kBF16 ? BF16ToFloat(bits) : FP16ToFloat(bits);
}

// One attention of one row over its tokens; plane(j) is the row of token j of a plane and its type.
template <class Keys, class Values>
void Attend(const float* query, int32_t width, int32_t tokens, const Keys& keys, const Values& values,
            float* out) {
  const float scale = 1.4426950408889634f / std::sqrt(static_cast<float>(width));
  float max = -1e30f, sum = 0;
  std::fill_n(out, width, 0.0f);
  for (int32_t j = 0; j < tokens; ++j) {
    float parts[32] = {};  // as a warp's lanes
    for (int32_t c = 0; c < width; ++c) parts[c % 32] += query[c] * keys(j, c);
    for (int32_t half = 16; half > 0; half /= 2) {
      for (int32_t i = 0; i < half; ++i) parts[i] += parts[i + half];
    }
    const float score = parts[0] * scale, new_max = std::max(max, score);
    const float factor = std::exp2(max - new_max), weight = std::exp2(score - new_max);
    sum = sum * factor + weight;
    for (int32_t c = 0; c < width; ++c) out[c] = out[c] * factor + weight * values(j, c);
    max = new_max;
  }
  for (int32_t c = 0; tokens > 0 && c < width; ++c) out[c] /= sum;
}

void AttendRow(const AttentionParams& p, int32_t r) {
  const LayerState& state = p.state;
  const RowMeta& meta = p.rows[r];
  const DType narrow = state.f32 != 0 ? DType::kF32 : DType::kBF16;
  const auto in_page = [&](int64_t plane, int32_t width, int32_t j) {
    return state.pages + p.pages[meta.page_begin + j / kPageTokens] * state.page_bytes + plane +
           int64_t{j % kPageTokens} * width * (state.f32 != 0 ? 4 : 2);
  };
  const auto s = [&](int32_t j, int32_t c) {
    if (state.f32 == 0 && j / kPageTokens == meta.position / kPageTokens) {
      const char* const open = state.open_pages + meta.open_page * state.open_page_bytes + state.open_s;
      return reinterpret_cast<const float*>(open)[int64_t{j % kPageTokens} * state.width + c];
    }
    return NumberAt(in_page(state.s, state.width, j), state.f32 != 0 ? DType::kF32 : DType::kF16, c);
  };
  Attend(
      p.qb + int64_t{r} * state.width, state.width, meta.live != 0 ? meta.position : 0,
      [&](int32_t j, int32_t c) { return NumberAt(in_page(state.kb, state.width, j), narrow, c); }, s,
      p.ctx + int64_t{r} * state.width);
  for (int32_t head = 0; head < p.heads; ++head) {
    const int32_t first = head * p.head_width, column = head / (p.heads / p.kv_heads) * p.head_width;
    std::vector<float> out(p.head_width);
    Attend(
        p.q + int64_t{r} * state.width + first, p.head_width, meta.live != 0 ? meta.position + 1 : 0,
        [&](int32_t j, int32_t c) { return NumberAt(in_page(state.k, state.kv, j), narrow, column + c); },
        [&](int32_t j, int32_t c) { return NumberAt(in_page(state.v, state.kv, j), narrow, column + c); },
        out.data());
    for (int32_t c = 0; c < p.head_width; ++c) {
      if (p.o != nullptr) p.o[int64_t{r} * state.width + first + c] = out[c];
      if (p.o_bf16 != nullptr) {
        static_cast<uint16_t*>(p.o_bf16)[int64_t{r} * p.pitch + first + c] = FloatToBF16(out[c]);
      }
    }
  }
}

void FeedbackRows(const DecodeGemm& gemm, const FeedbackEpilogueParams& p) {
  const auto* weight = static_cast<const uint16_t*>(gemm.weight);
  const auto* x = static_cast<const uint16_t*>(gemm.x);
  for (int64_t r = 0; r < gemm.rows; ++r) {
    const RowMeta& meta = p.rows[r];
    const int64_t page = p.pages[meta.page_begin + meta.position / kPageTokens], width = p.state.width;
    const int64_t in_page = meta.position % kPageTokens * width;
    char* const stored = p.state.pages + page * p.state.page_bytes + p.state.s;
    for (int64_t n = 0; n < gemm.outputs; ++n) {
      float s = 0;
      for (int64_t k = 0; k < gemm.pitch; ++k) {
        s += BF16ToFloat(x[r * gemm.pitch + k]) * BF16ToFloat(weight[n * gemm.pitch + k]);
      }
      s += p.gamma[r] * p.ctx[r * width + n];
      static_cast<uint16_t*>(p.u)[r * p.pitch + n] = FloatToBF16(s * p.g[r * width + n]);
      if (p.state.f32 != 0) {
        reinterpret_cast<float*>(stored)[in_page + n] = s;
        continue;
      }
      reinterpret_cast<uint16_t*>(stored)[in_page + n] = FloatToFP16(s);
      if (SaturatesFP16(s) && meta.live != 0) ++*p.saturations;
      char* const open = p.state.open_pages + meta.open_page * p.state.open_page_bytes + p.state.open_s;
      reinterpret_cast<float*>(open)[in_page + n] = s;
    }
  }
}

class HostKernels : public testing::Environment {
 public:
  void SetUp() override {
    for (const char* kernel : {"DecodeAttentionKernel", "GenericAttentionKernel"}) {
      fake_cuda::OnLaunch<AttentionParams>(kernel, [](const AttentionParams& params) {
        for (int32_t r = 0; r < params.row_count; ++r) AttendRow(params, r);
      });
    }
    fake_cuda::OnLaunch<DecodeGemm, FeedbackEpilogueParams>("FeedbackEpilogue", FeedbackRows);
  }
};
[[maybe_unused]] testing::Environment* const environment = testing::AddGlobalTestEnvironment(new HostKernels);

}  // namespace
}  // namespace sessa::cuda
