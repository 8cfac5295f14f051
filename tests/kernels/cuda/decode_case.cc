#include "tests/kernels/cuda/decode_case.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

#include "kernels/cuda/attention_schedule.h"
#include "kernels/half.h"

namespace sessa::cuda {
namespace {

constexpr int32_t kMaxSegments = 256;
constexpr float kSharp = 1.5f;  // times the key that a query points at

}  // namespace

const char* Name(Focus focus) {
  switch (focus) {
    case Focus::kDiffuse:
      return "diffuse";
    case Focus::kPrevious:
      return "previous token";
    case Focus::kStride:
      return "stride 64";
    case Focus::kOldest:
      return "oldest token";
  }
  return "";
}

DecodeCase::DecodeCase(const ModelShape& shape, StateDtype state, std::vector<int32_t> positions, Focus focus,
                       uint32_t seed)
    : shape_(shape), positions_(std::move(positions)) {
  layout_.shape = shape;
  layout_.shape.layers = 2;
  layout_.dtype = state;
  int device = 0, shared = 0;
  CheckCuda(cudaGetDevice(&device), "device");
  CheckCuda(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device),
            "multiprocessors");
  CheckCuda(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
            "shared memory");
  attention_ = PlanAttention(shape.width, shape.heads, shape.kv_heads, state == StateDtype::kF32, shared);
  blocks_ = *std::max_element(positions_.begin(), positions_.end()) / kPageTokens + 1;
  MakeState(seed);
  MakeQueries(focus, seed + 1);
}

float DecodeCase::Stored(Plane plane, float value) const {
  switch (layout_.PlaneDtype(plane)) {
    case DType::kF32:
      return value;
    case DType::kBF16:
      return BF16ToFloat(FloatToBF16(value));
    default:
      return FP16ToFloat(FloatToFP16(value));
  }
}

void DecodeCase::StoreRow(char* page, Plane plane, int32_t in_page, const float* numbers) const {
  const int32_t width = layout_.PlaneWidth(plane);
  char* const row = page + layout_.PlaneOffset(layer_, plane) + in_page * width * layout_.number_bytes();
  for (int32_t c = 0; c < width; ++c) {
    if (layout_.PlaneDtype(plane) == DType::kF32) {
      reinterpret_cast<float*>(row)[c] = numbers[c];
    } else {
      reinterpret_cast<uint16_t*>(row)[c] =
          layout_.PlaneDtype(plane) == DType::kBF16 ? FloatToBF16(numbers[c]) : FloatToFP16(numbers[c]);
    }
  }
}

void DecodeCase::MakeState(uint32_t seed) {
  const int32_t rows = static_cast<int32_t>(positions_.size()), d = shape_.width, kv = shape_.kv_width();
  const int64_t tokens = int64_t{blocks_} * kPageTokens;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::vector<float>* numbers, int64_t count, Plane plane) {
    numbers->resize(count);
    for (float& x : *numbers) x = Stored(plane, normal(random));
  };
  fill(&k_, tokens * kv, Plane::kK);
  fill(&v_, tokens * kv, Plane::kV);
  fill(&kb_, tokens * d, Plane::kKb);
  open_s_.resize(tokens * d);
  for (float& x : open_s_) x = 3 * normal(random);
  for (const float x : open_s_) s_.push_back(Stored(Plane::kS, x));

  page_order_.resize(blocks_ + rows + 2);  // two of nobody, then the scratch page
  std::iota(page_order_.begin(), page_order_.end(), 0);
  std::shuffle(page_order_.begin(), page_order_.end(), random);
  const bool open = layout_.has_open_pages();
  pages_host_.assign((page_order_.size() + 1) * layout_.page_bytes(), '\xff');
  open_host_.assign((rows + 1) * layout_.open_page_bytes(), '\xff');
  const auto store = [&](int32_t page, int64_t token, bool key, bool past, bool s) {
    char* const at = pages_host_.data() + page_order_[page] * layout_.page_bytes();
    const int32_t in_page = token % kPageTokens;
    if (key) StoreRow(at, Plane::kK, in_page, &k_[token * kv]);
    if (key) StoreRow(at, Plane::kV, in_page, &v_[token * kv]);
    if (past) StoreRow(at, Plane::kKb, in_page, &kb_[token * d]);
    if (s) StoreRow(at, Plane::kS, in_page, &s_[token * d]);
  };
  for (int64_t token = 0; token < tokens; ++token) store(token / kPageTokens, token, true, true, true);
  for (int32_t r = 0; r < rows; ++r) {
    for (int64_t token = positions_[r] / kPageTokens * kPageTokens; token <= positions_[r]; ++token) {
      const bool past = token < positions_[r];
      store(blocks_ + r, token, true, past, past && !open);
      if (!past || !open) continue;
      float* const row = reinterpret_cast<float*>(open_host_.data() + r * layout_.open_page_bytes() +
                                                  layout_.OpenOffset(layer_)) +
                         token % kPageTokens * d;
      std::copy_n(&open_s_[token * d], d, row);
    }
  }
  pages_ = DeviceArray<char>(pages_host_.size());
  pages_.FromHost(pages_host_);
  if (!open) return;
  open_pages_ = DeviceArray<char>(open_host_.size());
  open_pages_.FromHost(open_host_);
}

void DecodeCase::MakeQueries(Focus focus, uint32_t seed) {
  const int32_t d = shape_.width, kv = shape_.kv_width(), head_width = shape_.head_width();
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (const int32_t position : positions_) {
    const int32_t target = focus == Focus::kPrevious ? position - 1
                           : focus == Focus::kStride ? position - 64
                                                     : 0;
    const bool points = focus != Focus::kDiffuse && target >= 0 && target < position;
    for (int32_t c = 0; c < d; ++c) {
      const int32_t head = c / head_width, key_head = head / (shape_.heads / shape_.kv_heads);
      q_.push_back(points ? kSharp * k_[int64_t{target} * kv + key_head * head_width + c % head_width]
                          : normal(random));
      qb_.push_back(points ? kSharp * kb_[int64_t{target} * d + c] : normal(random));
    }
  }
}

AttentionParams DecodeCase::Prepare(const std::vector<int32_t>& rows) {
  rows_ = rows;
  batch_ = StepBatch();
  for (size_t i = 0; i < rows.size(); ++i) {
    Segment segment;
    segment.first_row = static_cast<int32_t>(i);
    segment.rows = 1;
    segment.start = positions_[rows[i]];
    segment.page_begin = static_cast<int32_t>(batch_.pages.size());
    segment.page_count = positions_[rows[i]] / kPageTokens + 1;
    segment.open_page = layout_.has_open_pages() ? rows[i] : -1;
    batch_.pages.insert(batch_.pages.end(), page_order_.begin(),
                        page_order_.begin() + segment.page_count - 1);
    batch_.pages.push_back(page_order_[blocks_ + rows[i]]);
    batch_.segments.push_back(segment);
    batch_.tokens.push_back(0);
  }
  std::vector<char> tables(TableBytes(kMaxSegments, batch_.rows(), 0, batch_.pages.size()));
  plan_ = BuildTables(batch_, kMaxSegments, static_cast<PageId>(page_order_.size()),
                      static_cast<PageId>(positions_.size()), multiprocessors_, tables.data());
  tables_ = DeviceArray<char>(tables.size());
  tables_.FromHost(tables);
  const int64_t bucket = plan_.row_bucket, d = shape_.width;
  std::vector<float> q(bucket * d, 1.0f), qb(bucket * d, 1.0f);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(&q_[rows[i] * d], d, &q[i * d]);
    std::copy_n(&qb_[rows[i] * d], d, &qb[i * d]);
  }
  q_device_ = DeviceArray<float>(bucket * d);
  q_device_.FromHost(q);
  qb_device_ = DeviceArray<float>(bucket * d);
  qb_device_.FromHost(qb);
  o_ = DeviceArray<float>(bucket * d);
  o_bf16_ = DeviceArray<uint16_t>(bucket * Pitch());
  ctx_ = DeviceArray<float>(bucket * d);
  // As the backend sizes them.
  const int64_t units =
      std::max<int64_t>(bucket * kMaxUnits, multiprocessors_ + bucket * kRunUnits * kMaxLeaves);
  const int64_t partials = units * (1 + attention_.forward_chunks);
  partials_ = DeviceArray<float>(std::max<int64_t>(partials * attention_.partial_floats, 1));
  arrivals_ = DeviceArray<int32_t>(partials * AttentionShape::kCounters, 0);
  next_item_ = DeviceArray<int32_t>(2, 0);
  CheckCuda(cudaDeviceSynchronize(), "preparing rows");  // the memory is cleared on another stream

  AttentionParams params = {};
  const auto table = [&](int64_t offset) { return tables_.get() + offset; };
  params.rows = reinterpret_cast<const RowMeta*>(table(plan_.layout.decode_rows));
  params.pages = reinterpret_cast<const int32_t*>(table(plan_.layout.pages));
  params.header = reinterpret_cast<const DecodeHeader*>(table(plan_.layout.header));
  params.feedback_runs = reinterpret_cast<const int32_t*>(table(plan_.layout.feedback_runs));
  params.forward_runs = reinterpret_cast<const int32_t*>(table(plan_.layout.forward_runs));
  params.q = q_device_.get();
  params.qb = qb_device_.get();
  if (shape_.heads > 1) {
    params.o_bf16 = o_bf16_.get();
  } else {
    params.o = o_.get();
  }
  params.ctx = ctx_.get();
  params.partials = partials_.get();
  params.arrivals = arrivals_.get();
  params.next_item = next_item_.get();
  LayerState& state = params.state;
  state.pages = pages_.get();
  state.open_pages = open_pages_.get();
  state.page_bytes = layout_.page_bytes();
  state.open_page_bytes = layout_.open_page_bytes();
  state.k = layout_.PlaneOffset(layer_, Plane::kK);
  state.v = layout_.PlaneOffset(layer_, Plane::kV);
  state.kb = layout_.PlaneOffset(layer_, Plane::kKb);
  state.s = layout_.PlaneOffset(layer_, Plane::kS);
  state.open_s = layout_.OpenOffset(layer_);
  state.width = shape_.width;
  state.kv = shape_.kv_width();
  state.f32 = layout_.dtype == StateDtype::kF32;
  params.row_count = plan_.row_bucket;
  params.pitch = Pitch();
  params.heads = shape_.heads;
  params.kv_heads = shape_.kv_heads;
  params.head_width = shape_.head_width();
  return params;
}

}  // namespace sessa::cuda
