// What both attentions of a DecodeCase are in float64, and how far float32 may be from it.
#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/attention_schedule.h"
#include "kernels/half.h"
#include "tests/kernels/cuda/decode_case.h"

namespace sessa::cuda {
namespace {

constexpr double kEpsilon = 1.0 / (1 << 24);

double Norm(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum);
}

// Softmax in float64 over `count` keys, of scores in base e; sums values by it. `magnitude`: the largest sum
// of absolute products of a score.
template <class Key, class Value>
double Attend(const float* query, int32_t width, int32_t count, const Key& key, const Value& value,
              int32_t value_width, std::vector<double>* out, std::vector<double>* absolute) {
  const double scale = 1 / std::sqrt(static_cast<double>(width));
  std::vector<double> scores(count);
  double magnitude = 0, maximum = -INFINITY, sum = 0;
  for (int32_t j = 0; j < count; ++j) {
    double dot = 0, size = 0;
    for (int32_t c = 0; c < width; ++c) {
      dot += double{query[c]} * key(j)[c];
      size += std::abs(double{query[c]} * key(j)[c]);
    }
    scores[j] = dot * scale;
    magnitude = std::max(magnitude, size * scale);
    maximum = std::max(maximum, scores[j]);
  }
  for (double& score : scores) sum += score = std::exp(score - maximum);
  out->assign(value_width, 0);
  absolute->assign(value_width, 0);
  for (int32_t j = 0; j < count; ++j) {
    for (int32_t c = 0; c < value_width; ++c) {
      (*out)[c] += scores[j] / sum * value(j)[c];
      (*absolute)[c] += scores[j] / sum * std::abs(double{value(j)[c]});
    }
  }
  return magnitude;
}

// How far float32 may be, for weights and their sum that are made in `chain` steps, each of which scales and
// adds. A score's rounding errors, some of its absolute terms' epsilons (a sum of many terms is made of short
// ones, so that few of them add up), become relative errors of a weight, and two epsilons more by the
// exponential.
double Slack(double magnitude, int32_t chain, const std::vector<double>& absolute) {
  return kEpsilon * (4 * magnitude + 2 + 4 * chain) * Norm(absolute);
}

}  // namespace

// A leaf's tokens one after the other, then four levels of up to four parts; or all tokens.
int32_t DecodeCase::Chain(int32_t tokens) const {
  return attention_.fast ? UnitTokens(tokens) / attention_.warps + 4 * kFanIn : tokens;
}

const float* DecodeCase::Values(int32_t row, int32_t j) const {
  const bool own_block = j / kPageTokens == positions_[row] / kPageTokens;
  return &(own_block && layout_.has_open_pages() ? open_s_ : s_)[int64_t{j} * shape_.width];
}

DecodeCase::Expected DecodeCase::Feedback(int32_t row) const {
  const int32_t d = shape_.width, tokens = positions_[row];
  Expected expected;
  std::vector<double> absolute;
  const double magnitude = Attend(
      &qb_[int64_t{row} * d], d, tokens, [&](int32_t j) { return &kb_[int64_t{j} * d]; },
      [&](int32_t j) { return Values(row, j); }, d, &expected.out, &absolute);
  expected.slack = Slack(magnitude, Chain(tokens), absolute);
  return expected;
}

DecodeCase::Expected DecodeCase::Forward(int32_t row, int32_t head) const {
  const int32_t width = shape_.head_width(), kv = shape_.kv_width();
  const int32_t column = head / (shape_.heads / shape_.kv_heads) * width, tokens = positions_[row] + 1;
  Expected expected;
  std::vector<double> absolute;
  const double magnitude = Attend(
      &q_[int64_t{row} * shape_.width + head * width], width, tokens,
      [&](int32_t j) { return &k_[int64_t{j} * kv + column]; },
      [&](int32_t j) { return &v_[int64_t{j} * kv + column]; }, width, &expected.out, &absolute);
  const double rounding = shape_.heads > 1 ? 1.0 / 256 : 0;  // o has 8 bits
  expected.slack = Slack(magnitude, Chain(tokens), absolute) + rounding * Norm(expected.out);
  return expected;
}

std::vector<float> DecodeCase::o() const {
  if (shape_.heads == 1) return o_.ToHost();
  const int32_t pitch = Pitch();
  const std::vector<uint16_t> bits = o_bf16_.ToHost();
  std::vector<float> o;
  for (int64_t r = 0; r < plan_.row_bucket; ++r) {
    for (int32_t c = 0; c < shape_.width; ++c) o.push_back(BF16ToFloat(bits[r * pitch + c]));
  }
  return o;
}

std::string DecodeCase::Check() const {
  const int32_t d = shape_.width;
  const std::vector<float> got_ctx = ctx(), got_o = o();
  const auto difference = [](const float* got, const Expected& expected) {
    double sum = 0;
    for (size_t c = 0; c < expected.out.size(); ++c)
      sum += (got[c] - expected.out[c]) * (got[c] - expected.out[c]);
    return std::sqrt(sum);
  };
  const auto describe = [&](const char* what, size_t i, double error, const Expected& expected) {
    return absl::StrCat(what, " of row ", i, " at position ", positions_[rows_[i]], " is off by ", error,
                        " of ", Norm(expected.out), "; allowed are ", expected.slack);
  };
  for (size_t i = 0; i < rows_.size(); ++i) {
    const Expected feedback = Feedback(rows_[i]);
    const double error = difference(&got_ctx[i * d], feedback);
    if (!(error <= feedback.slack)) return describe("ctx", i, error, feedback);
    for (int32_t head = 0; head < shape_.heads; ++head) {
      const Expected forward = Forward(rows_[i], head);
      const double off = difference(&got_o[i * d + head * shape_.head_width()], forward);
      if (!(off <= forward.slack)) return describe("o", i, off, forward);
    }
  }
  for (size_t i = rows_.size() * d; i < got_ctx.size(); ++i) {
    if (got_ctx[i] != 0) return absl::StrCat("ctx of padding is ", got_ctx[i]);
  }
  for (const std::vector<int32_t>& counters : {arrivals_.ToHost(), next_item_.ToHost()}) {
    for (const int32_t counter : counters) {
      if (counter != 0) return "a counter is not 0 afterwards";
    }
  }
  if (pages_.ToHost() != pages_host_) return "pages changed";
  if (layout_.has_open_pages() && open_pages_.ToHost() != open_host_) return "open pages changed";
  return "";
}

}  // namespace sessa::cuda
