// Prefill launchers against float64, for every kind of attention, lengths around tile edges, and many
// segments.
//
// Tolerances: o is rounded to bf16, as are its weights: each moves a norm by 2^-9 (a single number by 2^-8 at
// most), so 2^-8 in all. s passes through a handful of fp16 operands (weights, inverse, right-hand side, s
// itself; 2^-12 to 2^-11 each, unrelated): 2^-9 over all rows and 2^-8 for a single one. The plain kernels
// are float32 but for the fp16 state they read.
#include <gtest/gtest.h>

#include "tests/kernels/cuda/prefill_fixture.h"
#include "tests/kernels/cuda/quick.h"

namespace sessa::cuda {
namespace {

constexpr double kForwardTolerance = 1.0 / 256, kTolerance = 1.0 / 512, kWorstRow = 1.0 / 256;
constexpr double kPlainTolerance = 2e-5;
constexpr Attention kKinds[] = {Attention::kDiffuse, Attention::kPrevious, Attention::kStride,
                                Attention::kNegative};

PrefillLimits Limits(int width, int heads, int kv_heads) {
  PrefillLimits limits;
  limits.shape.width = width;
  limits.shape.heads = heads;
  limits.shape.kv_heads = kv_heads;
  limits.shape.layers = 2;
  limits.max_context = 16384;
  limits.max_segments = 16;  // the workspace is poisoned for each case
  return limits;
}

struct Shape {
  const char* name;
  int width, heads, kv_heads;
};

void Check(PrefillCase& work, double tolerance, double worst_row, const std::string& what) {
  work.Run();
  const RelativeError forward = work.ForwardError(), feedback = work.FeedbackError();
  EXPECT_LE(forward.all, kForwardTolerance) << what << ": o";
  EXPECT_LE(forward.worst_row, 2 * kForwardTolerance) << what << ": o, row " << forward.worst;
  EXPECT_LE(feedback.all, tolerance) << what << ": s";
  EXPECT_LE(feedback.worst_row, worst_row) << what << ": s, row " << feedback.worst;
  EXPECT_EQ(work.CheckState(), "") << what;
  EXPECT_EQ(work.saturations(), 0u) << what;
  std::printf("  %-44s o %.1e (row %.1e)  s %.1e (row %.1e)\n", what.c_str(), forward.all, forward.worst_row,
              feedback.all, feedback.worst_row);
}

class Prefill : public testing::Test {
 protected:
  void SetUp() override {
    if (NoCard()) GTEST_SKIP() << "needs an NVIDIA card";
  }
};

TEST_F(Prefill, OneSegmentAtEveryEdge) {
  const Shape shapes[] = {{"d=64", 256, 4, 2}, {"d=128", 256, 2, 1}};
  uint64_t seed = 1;
  for (const Shape& shape : shapes) {
    for (const int start : {0, 1, 64, 1000, 4096}) {
      for (const int rows : {1, 2, 63, 64, 65, 127, 1023, 2047, 2048}) {
        if (Quick() && start + rows > 1100) continue;
        const Attention kind = kKinds[seed % 4];
        PrefillCase work(Limits(shape.width, shape.heads, shape.kv_heads), {{start, rows}}, kind, ++seed);
        Check(work, kTolerance, kWorstRow,
              std::string(shape.name) + " start " + std::to_string(start) + " rows " + std::to_string(rows) +
                  " " + Name(kind));
      }
    }
  }
}

TEST_F(Prefill, BenchShapeEveryKind) {
  for (const Attention kind : kKinds) {
    if (Quick() && kind != kKinds[0]) continue;
    PrefillCase work(Limits(1024, 16, 4), {{2100, 2048}}, kind, 71);
    Check(work, kTolerance, kWorstRow, std::string("D=1024 ") + Name(kind));
  }
}

TEST_F(Prefill, ManySegments) {
  for (const Attention kind : kKinds) {
    PrefillCase work(Limits(256, 4, 1),
                     {{0, 1},
                      {1000, 2},
                      {0, 64},
                      {64, 63},
                      {127, 65},
                      {0, 127},
                      {4096, 300},
                      {63, 700},
                      {1, 1},
                      {130, 33}},
                     kind, 5);
    Check(work, kTolerance, kWorstRow, std::string("ten segments ") + Name(kind));
  }
}

TEST_F(Prefill, EveryLeafSize) {
  for (const int leaf : {128, 256, 512, 1024, 2048}) {
    PrefillLimits limits = Limits(256, 4, 1);
    limits.tuning.leaf = leaf;
    PrefillCase work(limits, {{100, 1500}, {0, 300}}, Attention::kPrevious, 8);
    Check(work, kTolerance, kWorstRow, "leaf " + std::to_string(leaf));
  }
}

TEST_F(Prefill, SeveralPanels) {
  for (const Attention kind : kKinds) {
    PrefillLimits limits = Limits(128, 2, 1);
    limits.panel_bytes = 1;  // as narrow as the new rows allow
    limits.max_rows = 512;
    PrefillCase work(limits, {{4100, 300}, {9000, 70}, {10, 20}}, kind, 9);
    EXPECT_GT(work.plan().panels.size(), 2u);
    Check(work, kTolerance, kWorstRow, std::string("panels ") + Name(kind));
  }
}

TEST_F(Prefill, OddShapes) {
  const Shape shapes[] = {
      {"d=18", 72, 4, 2}, {"one head", 72, 1, 1}, {"d=9", 36, 4, 1}, {"d=200", 200, 1, 1}};
  for (const Shape& shape : shapes) {
    const Attention kind = shape.width == 72 ? Attention::kDiffuse : Attention::kPrevious;
    PrefillCase work(Limits(shape.width, shape.heads, shape.kv_heads), {{70, 150}, {0, 5}, {0, 260}}, kind,
                     10);
    Check(work, kTolerance, kWorstRow, shape.name);
  }
}

TEST_F(Prefill, PlainKernels) {
  for (const StateDtype state : {StateDtype::kCompact, StateDtype::kF32}) {
    for (const Attention kind : kKinds) {
      PrefillLimits limits = Limits(128, 2, 1);
      limits.tensor_cores = false;
      limits.state = state;
      PrefillCase work(limits, {{70, 150}, {0, 5}, {1000, 64}, {0, 260}}, kind, 11);
      Check(work, kPlainTolerance, kPlainTolerance, std::string("plain ") + Name(kind));
    }
  }
}

TEST_F(Prefill, FusedSolve) {
  const std::vector<std::vector<SegmentLength>> batches = {
      {{0, 2048}}, {{0, 2000}}, {{2100, 2000}}, {{0, 700}, {100, 700}, {64, 30}}, {{5, 20}, {0, 1}}};
  for (const std::vector<SegmentLength>& lengths : batches) {
    PrefillCase work(Limits(1024, 16, 4), lengths, Attention::kPrevious, 14);
    ASSERT_TRUE(work.plan().fuses);
    EXPECT_EQ(work.plan().forward_blocks > 0, lengths[0].rows >= 700)
        << lengths[0].start << " " << lengths[0].rows;
    work.RunFused();
    const RelativeError error = work.FeedbackError();
    const std::string what = std::to_string(lengths[0].rows) + " rows on " + std::to_string(lengths[0].start);
    EXPECT_LE(error.all, kTolerance) << what;
    EXPECT_LE(error.worst_row, kWorstRow) << what << ", row " << error.worst;
    EXPECT_EQ(work.CheckState(), "") << what;
    EXPECT_EQ(work.CheckGate(), "") << what;
    std::printf("  fused %-30s s %.1e (row %.1e)\n", what.c_str(), error.all, error.worst_row);
  }
}

TEST_F(Prefill, CountsSaturatedState) {
  for (const bool tensor_cores : {true, false}) {
    for (const int rows : {40, 200}) {
      PrefillLimits limits = Limits(128, 2, 1);
      limits.tensor_cores = tensor_cores;
      PrefillCase work(limits, {{0, rows}}, Attention::kDiffuse, 12, 30000);
      work.Run();
      uint64_t expected = 0;
      const std::vector<float> s = work.s();
      for (int64_t i = 128; i < (rows + 1) * 128; i++) expected += std::abs(s[i]) > 65504;
      EXPECT_GT(expected, 0u);
      EXPECT_EQ(work.saturations(), expected);
      EXPECT_EQ(work.CheckState(), "");
    }
  }
}

TEST_F(Prefill, SameResultTwice) {
  PrefillCase work(Limits(256, 4, 1), {{100, 700}, {0, 30}}, Attention::kPrevious, 13);
  work.Run();
  const std::vector<float> first = work.s();
  PrefillCase again(Limits(256, 4, 1), {{100, 700}, {0, 30}}, Attention::kPrevious, 13);
  again.Run();
  const std::vector<float> second = again.s();
  for (int64_t i = 256; i < 701 * 256; i++) ASSERT_EQ(first[i], second[i]) << i;
}

}  // namespace
}  // namespace sessa::cuda
