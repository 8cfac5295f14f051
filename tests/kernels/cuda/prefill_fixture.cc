#include "tests/kernels/cuda/prefill_fixture.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "kernels/cuda/prefill_linear.h"
#include "kernels/cuda/prefill_tables.h"
#include "tests/kernels/cuda/prefill_reference.h"

namespace sessa::cuda {
namespace {

constexpr float kPastScale = 3;  // of s in the past

int Pages(int tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

RelativeError Compare(const std::vector<float>& got, const std::vector<double>& want, int64_t width) {
  RelativeError error;
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(want.size()) / width; i++) {
    double row_difference = 0, row_norm = 0;
    for (int64_t d = 0; d < width; d++) {
      const double w = want[i * width + d];
      row_difference += (got[i * width + d] - w) * (got[i * width + d] - w);
      row_norm += w * w;
    }
    const double row = std::sqrt(row_difference / row_norm);
    if (!(row <= error.worst_row)) error.worst_row = row, error.worst = i;
    difference += row_difference, norm += row_norm;
  }
  error.all = std::sqrt(difference / norm);
  return error;
}

float FromBf16(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

float FromHalf(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                    : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return bits & 0x8000 ? -value : value;
}

}  // namespace

const char* Name(Attention kind) {
  switch (kind) {
    case Attention::kDiffuse:
      return "diffuse";
    case Attention::kPrevious:
      return "previous";
    case Attention::kStride:
      return "stride 64";
    case Attention::kNegative:
      return "negative";
  }
  return "";
}

PrefillCase::PrefillCase(const PrefillLimits& limits, const std::vector<SegmentLength>& lengths,
                         Attention kind, uint64_t seed, float f_scale)
    : limits_(limits), layer_(limits.shape.layers - 1), saturations_(1, 0) {
  layout_.shape = limits.shape;
  layout_.dtype = limits.state;
  int pages = 3;  // some that nobody has
  for (const SegmentLength& length : lengths) pages += Pages(length.start + length.rows);
  page_count_ = pages;
  std::vector<int32_t> order(pages);
  for (int i = 0; i < pages; i++) order[i] = i;
  std::mt19937 random(seed);
  std::shuffle(order.begin(), order.end(), random);
  int next_page = 0;
  for (const SegmentLength& length : lengths) {
    PrefillSegment segment;
    segment.first_row = rows_ + 1;  // a row that is nobody's before each segment
    segment.rows = length.rows;
    segment.start = length.start;
    segment.page_begin = static_cast<int32_t>(page_table_host_.size());
    segment.open_page = static_cast<int32_t>(segments_.size());
    for (int i = 0; i < Pages(length.start + length.rows); i++)
      page_table_host_.push_back(order[next_page++]);
    rows_ = segment.first_row + segment.rows;
    base_.push_back(positions_);
    positions_ += length.start + length.rows;
    segments_.push_back(segment);
  }
  limits_.max_rows = std::max(limits_.max_rows, rows_);
  FillState(kind, seed, f_scale);
  table_ = DeviceArray<char>(PrefillTableBytes(limits_));
  workspace_ = DeviceArray<char>(PrefillWorkspaceBytes(limits_));
  std::vector<char> table(PrefillTableBytes(limits_));
  plan_ = PlanPrefill(limits_, segments_.data(), static_cast<int32_t>(segments_.size()), table.data());
  table.resize(plan_.table_bytes);
  table_.FromHost(table);
}

void PrefillCase::FillState(Attention kind, uint64_t seed, float f_scale) {
  const int D = limits_.shape.width, kv = limits_.shape.kv_width();
  const bool compact = limits_.state == StateDtype::kCompact;
  const int64_t rows = limits_.max_rows, positions = positions_;
  page_table_ = DeviceArray<int32_t>(page_table_host_.size());
  page_table_.FromHost(page_table_host_);
  pages_ = DeviceArray<char>(page_count_ * layout_.page_bytes());
  open_pages_ = DeviceArray<char>(static_cast<int64_t>(segments_.size()) * layout_.open_page_bytes());
  q_ = DeviceArray<uint16_t>(rows * D), qb_ = DeviceArray<uint16_t>(rows * D),
  o_ = DeviceArray<uint16_t>(rows * D);
  gamma_ = DeviceArray<float>(rows), f_ = DeviceArray<float>(rows * D), s_ = DeviceArray<float>(rows * D);
  k_ = DeviceArray<float>(positions * kv), v_ = DeviceArray<float>(positions * kv);
  kb_ = DeviceArray<float>(positions * D), past_s_ = DeviceArray<float>(positions * D);
  FillNormal(k_.get(), positions * kv, seed + 1, 1, compact);
  FillNormal(v_.get(), positions * kv, seed + 2, 1, compact);
  FillNormal(kb_.get(), positions * D, seed + 3, 1, compact);
  FillNormal(past_s_.get(), positions * D, seed + 4, kPastScale, compact ? 2 : 0);

  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> gamma(rows, NAN);
  DeviceArray<float> random_rows(rows * D);
  FillNormal(random_rows.get(), rows * D, seed + 5, 1, 0);
  for (size_t i = 0; i < segments_.size(); i++) {
    const PrefillSegment& segment = segments_[i];
    const int64_t row = int64_t{segment.first_row} * D, count = int64_t{segment.rows} * D;
    const float* kb = kb_.get() + base_[i] * D;
    float* past = past_s_.get() + base_[i] * D;
    ToBf16(q_.get() + row, random_rows.get() + row, count);
    FillNormal(f_.get() + row, count, seed + 6 + i, f_scale, 0);
    const int shift = kind == Attention::kDiffuse ? 1 << 30 : kind == Attention::kStride ? 64 : 1;
    ShiftedQueries(qb_.get() + row, kb, segment.rows, segment.start, D, shift,
                   kind == Attention::kDiffuse ? 1 : 1.5f, seed + 9);
    for (int r = 0; r < segment.rows; r++) {
      gamma[segment.first_row + r] = kind == Attention::kDiffuse
                                         ? 0.999f * std::tanh(1 + 0.5f * normal(random))
                                     : kind == Attention::kNegative ? -0.999f
                                                                    : 0.999f;
    }
    const int32_t* pages = page_table_.get() + segment.page_begin;
    const auto plane = [&](Plane p) { return pages_.get() + layout_.PlaneOffset(layer_, p); };
    const int end = segment.start + segment.rows, lead = segment.start % kPageTokens;
    ToPages(plane(Plane::kK), layout_.page_bytes(), pages, k_.get() + base_[i] * kv, 0, end, kv,
            layout_.PlaneDtype(Plane::kK));
    ToPages(plane(Plane::kV), layout_.page_bytes(), pages, v_.get() + base_[i] * kv, 0, end, kv,
            layout_.PlaneDtype(Plane::kV));
    ToPages(plane(Plane::kKb), layout_.page_bytes(), pages, kb, 0, end, D, layout_.PlaneDtype(Plane::kKb));
    // The open block's s is known in float32.
    FillNormal(past + int64_t{segment.start - lead} * D, int64_t{lead} * D, seed + 7 + i, kPastScale, 0);
    ToPages(plane(Plane::kS), layout_.page_bytes(), pages, past, 0, segment.start, D,
            layout_.PlaneDtype(Plane::kS));
    if (compact && lead > 0) {
      CheckCuda(
          cudaMemcpy(
              open_pages_.get() + segment.open_page * layout_.open_page_bytes() + layout_.OpenOffset(layer_),
              past + int64_t{segment.start - lead} * D, int64_t{lead} * D * 4, cudaMemcpyDeviceToDevice),
          "open page");
    }
  }
  gamma_.FromHost(gamma);
  pages_before_ = pages_.ToHost();
  open_before_ = open_pages_.ToHost();
}

PrefillContext PrefillCase::context() const {
  PrefillContext context;
  context.limits = &limits_;
  context.plan = &plan_;
  context.table = table_.get();
  context.workspace = workspace_.get();
  context.state = {pages_.get(), page_count_, open_pages_.get(), page_table_.get(), &layout_, layer_};
  return context;
}

PrefillForwardParams PrefillCase::forward() const { return {q_.get(), o_.get()}; }

PrefillFeedbackParams PrefillCase::feedback() const {
  PrefillFeedbackParams params;
  params.qb = qb_.get();
  params.gamma = gamma_.get();
  params.f = f_.get();
  params.s = s_.get();
  params.saturations = saturations_.get();
  return params;
}

void PrefillCase::Run() {
  CheckCuda(LaunchPrefillForward(context(), forward(), nullptr), "LaunchPrefillForward");
  CheckCuda(LaunchPrefillPrepare(context(), feedback(), nullptr), "LaunchPrefillPrepare");
  CheckCuda(LaunchPrefillSolve(context(), feedback(), nullptr), "LaunchPrefillSolve");
  CheckCuda(cudaDeviceSynchronize(), "prefill kernels");
}

void PrefillCase::RunFused() {
  const int D = limits_.shape.width;
  const int64_t size = int64_t{limits_.max_rows} * D;
  DeviceArray<float> random(std::max(size, int64_t{D} * D));
  DeviceArray<uint16_t> weight(int64_t{D} * D);
  FillNormal(random.get(), int64_t{D} * D, 21, 1 / std::sqrt(static_cast<float>(D)), 0);
  ToBf16(weight.get(), random.get(), int64_t{D} * D);
  g_ = DeviceArray<float>(size);
  u_ = DeviceArray<uint16_t>(size);
  FillNormal(g_.get(), size, 22, 1, 0);
  PrefillContext fused = context();
  CheckCuda(cudaStreamCreateWithFlags(&fused.side.stream, cudaStreamNonBlocking), "stream");
  for (cudaEvent_t* event : {&fused.side.begin, &fused.side.end}) CheckCuda(cudaEventCreate(event), "event");
  PrefillFeedbackParams params = feedback();
  params.f = nullptr;
  params.o = o_.get();
  params.out_weight = weight.get();
  params.g = g_.get();
  params.u = u_.get();
  CheckCuda(LaunchPrefillAttention(fused, forward(), params, nullptr), "LaunchPrefillAttention");
  CheckCuda(LaunchPrefillSolve(fused, params, nullptr), "LaunchPrefillSolve");
  const PrefillLinear out{weight.get(), o_.get(), D, D, limits_.max_rows, limits_.multiprocessors};
  CheckCuda(LaunchPrefillLinear(out, StoreEpilogueParams{f_.get(), D}, nullptr), "W_o");
  CheckCuda(cudaDeviceSynchronize(), "fused prefill kernels");
  for (cudaEvent_t event : {fused.side.begin, fused.side.end}) CheckCuda(cudaEventDestroy(event), "event");
  CheckCuda(cudaStreamDestroy(fused.side.stream), "stream");
}

std::string PrefillCase::CheckGate() const {
  const std::vector<float> s = s_.ToHost(), g = g_.ToHost();
  const std::vector<uint16_t> u = u_.ToHost();
  const int64_t D = limits_.shape.width;
  for (const PrefillSegment& segment : segments_) {
    for (int64_t i = segment.first_row * D; i < (segment.first_row + segment.rows) * D; i++) {
      const float want = s[i] * g[i];
      if (!(std::abs(FromBf16(u[i]) - want) <= std::abs(want) / 256)) {
        return "u differs from s g in row " + std::to_string(i / D) + " column " + std::to_string(i % D);
      }
    }
  }
  return "";
}

namespace {

// Errors over the rows of all segments, the reference of each computed by `reference`.
template <class Reference>
RelativeError CompareSegments(const std::vector<PrefillSegment>& segments, int D,
                              const std::vector<float>& got, const Reference& reference) {
  std::vector<float> got_rows;
  std::vector<double> want_rows;
  for (size_t i = 0; i < segments.size(); i++) {
    const int64_t count = int64_t{segments[i].rows} * D;
    DeviceArray<double> out(count);
    reference(i, out.get());
    const std::vector<double> want = out.ToHost();
    want_rows.insert(want_rows.end(), want.begin(), want.end());
    const float* from = got.data() + int64_t{segments[i].first_row} * D;
    got_rows.insert(got_rows.end(), from, from + count);
  }
  return Compare(got_rows, want_rows, D);
}

}  // namespace

RelativeError PrefillCase::ForwardError() const {
  const ModelShape& shape = limits_.shape;
  std::vector<float> got;
  for (const uint16_t bits : o_.ToHost()) got.push_back(FromBf16(bits));
  return CompareSegments(segments_, shape.width, got, [&](size_t i, double* out) {
    ReferenceSegment segment{segments_[i].rows, segments_[i].start, shape.width, shape.heads, shape.kv_heads};
    segment.k = k_.get() + base_[i] * shape.kv_width();
    segment.v = v_.get() + base_[i] * shape.kv_width();
    segment.q = q_.get() + int64_t{segments_[i].first_row} * shape.width;
    ReferenceForward(segment, out);
  });
}

RelativeError PrefillCase::FeedbackError() const {
  const ModelShape& shape = limits_.shape;
  return CompareSegments(segments_, shape.width, s_.ToHost(), [&](size_t i, double* out) {
    const int64_t row = segments_[i].first_row;
    ReferenceSegment segment{segments_[i].rows, segments_[i].start, shape.width, shape.heads, shape.kv_heads};
    segment.kb = kb_.get() + base_[i] * shape.width;
    segment.past_s = past_s_.get() + base_[i] * shape.width;
    segment.qb = qb_.get() + row * shape.width;
    segment.gamma = gamma_.get() + row;
    segment.f = f_.get() + row * shape.width;
    ReferenceFeedback(segment, out);
  });
}

std::string PrefillCase::CheckState() const {
  const std::vector<float> s = s_.ToHost();
  const std::vector<char> after = pages_.ToHost(), open_after = open_pages_.ToHost();
  std::vector<char> before = pages_before_, open_before = open_before_;
  for (const PrefillSegment& segment : segments_) {
    const std::string error = CheckSegmentState(segment, s, &before, &open_before, after, open_after);
    if (!error.empty()) return error;
  }
  if (before != after) return "pages changed beside the new rows of s";
  if (open_before != open_after) return "open pages changed beside the new rows of s";
  return "";
}

// Also copies what may change from `after` to `before`.
std::string PrefillCase::CheckSegmentState(const PrefillSegment& segment, const std::vector<float>& s,
                                           std::vector<char>* before, std::vector<char>* open_before,
                                           const std::vector<char>& after,
                                           const std::vector<char>& open_after) const {
  const int D = limits_.shape.width, end = segment.start + segment.rows;
  const int64_t bytes = layout_.number_bytes();
  for (int position = segment.start; position < end; position++) {
    const float* row = s.data() + int64_t{segment.first_row + position - segment.start} * D;
    const int64_t in_page = int64_t{position % kPageTokens} * D;
    const int64_t at = page_table_host_[segment.page_begin + position / kPageTokens] * layout_.page_bytes() +
                       layout_.PlaneOffset(layer_, Plane::kS) + in_page * bytes;
    std::copy_n(after.begin() + at, D * bytes, before->begin() + at);
    for (int d = 0; d < D; d++) {
      float stored;
      if (bytes == 4) {
        std::memcpy(&stored, &after[at + d * 4], 4);
      } else {
        uint16_t bits;
        std::memcpy(&bits, &after[at + d * 2], 2);
        stored = FromHalf(bits);
      }
      const float want = bytes == 4 ? row[d] : std::clamp(row[d], -65504.f, 65504.f);
      const float slack = bytes == 4 ? 0 : std::max(std::abs(want) / 2048, 1.0f / (1 << 25));
      if (!(std::abs(stored - want) <= slack)) {
        return "page differs from s at position " + std::to_string(position) + " column " + std::to_string(d);
      }
    }
    if (bytes == 4 || position / kPageTokens != (end - 1) / kPageTokens) continue;
    const int64_t open =
        segment.open_page * layout_.open_page_bytes() + layout_.OpenOffset(layer_) + in_page * 4;
    std::copy_n(open_after.begin() + open, int64_t{D} * 4, open_before->begin() + open);
    if (std::memcmp(&open_after[open], row, int64_t{D} * 4) != 0) {
      return "open page differs from s at position " + std::to_string(position);
    }
  }
  return "";
}

}  // namespace sessa::cuda
