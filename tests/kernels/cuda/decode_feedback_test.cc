// s = f + gamma ctx of decode rows, f = o W_o^T: against float64, where it goes, and that padded rows write
// to the scratch pages only. On the card the kernels run; with the stand-in for CUDA the loops of
// host_attention.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/half.h"
#include "kernels/state_layout.h"
#include "tests/kernels/cuda/device_array.h"

namespace sessa::cuda {
namespace {

constexpr int32_t kWidth = 200, kMaxSegments = 64;
constexpr double kEpsilon = 1.0 / (1 << 24);

// Rows of sessions with a page each (and two pages of nobody), all inputs of padded rows NaN.
class FeedbackCase {
 public:
  FeedbackCase(StateDtype state, int32_t rows, float gamma, float ctx_scale) : rows_(rows) {
    layout_.shape.width = kWidth;
    layout_.shape.layers = 2;
    layout_.shape.heads = layout_.shape.kv_heads = 1;
    layout_.dtype = state;
    StepBatch batch;
    for (int32_t r = 0; r < rows; ++r) {
      batch.segments.push_back({r, 1, Position(r), r, 1, layout_.has_open_pages() ? r : -1, -1});
      batch.pages.push_back(Page(r));
      batch.tokens.push_back(0);
    }
    // Each row's page is that of its own block: the table begins there.
    for (Segment& segment : batch.segments) segment.start %= kPageTokens;
    std::vector<char> tables(TableBytes(kMaxSegments, rows, 0, rows));
    plan_ = BuildTables(batch, kMaxSegments, Scratch(), rows, 132, tables.data());
    tables_ = Make(tables);
    const int64_t bucket = plan_.row_bucket;
    std::mt19937 random(rows);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>* numbers, float scale) {
      numbers->assign(bucket * kWidth, NAN);
      for (int64_t i = 0; i < int64_t{rows} * kWidth; ++i) (*numbers)[i] = scale * normal(random);
    };
    fill(&ctx_, ctx_scale);
    fill(&g_, 1);
    gamma_.assign(bucket, NAN);
    std::fill_n(gamma_.begin(), rows, gamma);
    o_.assign(bucket * kWidth, FloatToBF16(NAN));
    for (int64_t i = 0; i < int64_t{rows} * kWidth; ++i) o_[i] = FloatToBF16(normal(random));
    for (int64_t i = 0; i < kWidth * kWidth; ++i) weight_.push_back(FloatToBF16(0.07f * normal(random)));
    before_.assign((Scratch() + 1) * layout_.page_bytes(), '\x5a');
    open_before_.assign((rows + 1) * layout_.open_page_bytes(), '\x5a');
  }

  // Runs and checks; empty when all is well.
  std::string Run() {
    DeviceArray<char> pages = Make(before_), open = Make(open_before_);
    const DeviceArray<float> ctx = Make(ctx_), g = Make(g_), gamma = Make(gamma_);
    const DeviceArray<uint16_t> o = Make(o_), weight = Make(weight_), u(ctx.size());
    const DeviceArray<unsigned long long> saturations(1, 0);
    cudaStream_t stream = nullptr;
    CheckCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
    CheckCuda(cudaDeviceSynchronize(), "preparing");
    FeedbackEpilogueParams params = {};
    params.rows = reinterpret_cast<const RowMeta*>(tables_.get() + plan_.layout.decode_rows);
    params.pages = reinterpret_cast<const int32_t*>(tables_.get() + plan_.layout.pages);
    params.gamma = gamma.get();
    params.ctx = ctx.get();
    params.g = g.get();
    params.u = u.get();
    params.state.pages = pages.get();
    params.state.open_pages = open.get();
    params.state.page_bytes = layout_.page_bytes();
    params.state.open_page_bytes = layout_.open_page_bytes();
    params.state.s = layout_.PlaneOffset(1, Plane::kS);
    params.state.open_s = layout_.OpenOffset(1);
    params.state.width = params.state.kv = kWidth;
    params.state.f32 = layout_.dtype == StateDtype::kF32;
    params.saturations = saturations.get();
    params.pitch = kWidth;
    const DecodeGemm gemm{weight.get(), o.get(), kWidth, plan_.row_bucket, kWidth};
    CheckCuda(LaunchDecodeGemm(gemm, params, {stream, false}), "feedback");
    CheckCuda(cudaStreamSynchronize(stream), "feedback");
    CheckCuda(cudaStreamDestroy(stream), "a stream");
    return Check(pages.ToHost(), open.ToHost(), u.ToHost(), saturations.ToHost()[0]);
  }

 private:
  template <class T>
  static DeviceArray<T> Make(const std::vector<T>& host) {
    DeviceArray<T> array(host.size());
    if (!host.empty()) array.FromHost(host);
    return array;
  }
  int64_t Position(int32_t r) const { return (37 * r + 5) % 400; }
  PageId Page(int32_t r) const { return (r + 1) % rows_; }
  PageId Scratch() const { return rows_ + 2; }

  std::string Check(std::vector<char> pages, std::vector<char> open, const std::vector<uint16_t>& u,
                    uint64_t saturations) const {
    uint64_t expected_saturations = 0;
    const bool f32 = layout_.dtype == StateDtype::kF32;
    for (int32_t r = 0; r < rows_; ++r) {
      const int64_t in_page = Position(r) % kPageTokens * kWidth;
      char* const stored = &pages[Page(r) * layout_.page_bytes() + layout_.PlaneOffset(1, Plane::kS) +
                                  in_page * layout_.number_bytes()];
      float* const exact =
          f32 ? reinterpret_cast<float*>(stored)
              : reinterpret_cast<float*>(&open[r * layout_.open_page_bytes() + layout_.OpenOffset(1)]) +
                    in_page;
      for (int32_t n = 0; n < kWidth; ++n) {
        double f = 0, terms = 0;
        for (int32_t k = 0; k < kWidth; ++k) {
          const double term = double{BF16ToFloat(o_[r * kWidth + k])} * BF16ToFloat(weight_[n * kWidth + k]);
          f += term, terms += std::abs(term);
        }
        const double context = double{gamma_[r]} * ctx_[r * kWidth + n], s = f + context;
        // Products are exact; some roundings of sums that are no larger than their terms together.
        const double slack = kEpsilon * (8 * terms + 2 * std::abs(context)), gate = g_[r * kWidth + n];
        const auto off = [&](const char* what) { return absl::StrCat(what, " of row ", r, " column ", n); };
        if (!(std::abs(exact[n] - s) <= slack)) return off("s");
        if (!(std::abs(BF16ToFloat(u[r * kWidth + n]) - s * gate) <=
              std::abs(s * gate) / 256 + slack * std::abs(gate))) {
          return off("u");
        }
        if (!f32) {
          uint16_t& half = reinterpret_cast<uint16_t*>(stored)[n];
          if (half != FloatToFP16(exact[n])) return off("the page's s");
          expected_saturations += SaturatesFP16(exact[n]);
          half = 0x5a5a;
        }
        std::fill_n(reinterpret_cast<char*>(&exact[n]), 4, '\x5a');
      }
    }
    if (saturations != expected_saturations) return absl::StrCat(saturations, " saturations");
    // All but the scratch pages, which padding may write to, is as before again.
    pages.resize(Scratch() * layout_.page_bytes());
    open.resize(rows_ * layout_.open_page_bytes());
    if (!std::equal(pages.begin(), pages.end(), before_.begin())) return "something else in the pages";
    if (!std::equal(open.begin(), open.end(), open_before_.begin()))
      return "something else in the open pages";
    return "";
  }

  const int32_t rows_;
  StateLayout layout_;
  StepPlan plan_{TableLayout(0)};
  std::vector<float> ctx_, g_, gamma_;
  std::vector<uint16_t> o_, weight_;
  std::vector<char> before_, open_before_;
  DeviceArray<char> tables_;
};

TEST(DecodeFeedback, GoesToTheRowsOwnPagesAndNowhereElse) {
  if (NoCard()) GTEST_SKIP() << "needs an NVIDIA card";
  for (const StateDtype state : {StateDtype::kCompact, StateDtype::kF32}) {
    for (const int32_t rows :
         {1, 5, 12, 40}) {  // up to eight straight into registers, more through rings; buckets
      for (const float gamma : {0.999f, -0.999f, 0.0f}) {
        EXPECT_EQ(FeedbackCase(state, rows, gamma, 3).Run(), "") << rows << " rows, gamma " << gamma;
      }
    }
  }
}

TEST(DecodeFeedback, CountsWhatDoesNotFitFp16) {
  if (NoCard()) GTEST_SKIP() << "needs an NVIDIA card";
  EXPECT_EQ(FeedbackCase(StateDtype::kCompact, 5, 0.999f, 60000).Run(), "");
}

}  // namespace
}  // namespace sessa::cuda
