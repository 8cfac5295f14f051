// Times the stages of a layer's prefill: chunks of 2048 rows on pasts of 0, 2048, ..., one layer, one
// session.
//
// Then the linear layers, and chunks of several sessions.
//
// usage: prefill_bench [--tokens=T] [--NAME=N of PrefillTuning]    bench shape: D=1024, H=16, Hkv=4, compact
// state Prints, for each chunk, microseconds a stage (medians of events around the stage's launches), and for
// T = 2048, 8192, 16384 the sum over chunks beside what the arithmetic needs at the bf16 GEMM rate measured
// in the same run.
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/prefill_linear.h"
#include "tests/kernels/cuda/prefill_fixture.h"
#include "tests/kernels/cuda/prefill_reference.h"

namespace sessa::cuda {
namespace {

constexpr int kChunk = 2048, kRepeats = 9;

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Median microseconds of each of some consecutive stages, and of all of them without events in between.
struct Stage {
  const char* name;
  std::function<cudaError_t()> launch;
  double microseconds = 0;
};

double TimeStages(std::vector<Stage>* stages) {
  std::vector<cudaEvent_t> events(stages->size() + 1);
  for (cudaEvent_t& event : events) CheckCuda(cudaEventCreate(&event), "event");
  std::vector<std::vector<double>> times(stages->size());
  std::vector<double> totals;
  for (int repeat = -2; repeat < kRepeats; repeat++) {
    for (const bool split : {true, false}) {
      CheckCuda(cudaEventRecord(events[0]), "record");
      for (size_t i = 0; i < stages->size(); i++) {
        CheckCuda((*stages)[i].launch(), (*stages)[i].name);
        if (split || i + 1 == stages->size()) CheckCuda(cudaEventRecord(events[i + 1]), "record");
      }
      CheckCuda(cudaDeviceSynchronize(), "stages");
      float milliseconds = 0;
      if (!split) {
        CheckCuda(cudaEventElapsedTime(&milliseconds, events.front(), events.back()), "elapsed");
        if (repeat >= 0) totals.push_back(milliseconds * 1e3);
        continue;
      }
      for (size_t i = 0; i < stages->size(); i++) {
        CheckCuda(cudaEventElapsedTime(&milliseconds, events[i], events[i + 1]), "elapsed");
        if (repeat >= 0) times[i].push_back(milliseconds * 1e3);
      }
    }
  }
  for (size_t i = 0; i < stages->size(); i++) (*stages)[i].microseconds = Median(times[i]);
  return Median(totals);
}

// TFLOP/s of cuBLASLt on random bf16, 8192 cubed.
double GemmRate() {
  constexpr int64_t n = 8192;
  DeviceArray<float> random(n * n);
  FillNormal(random.get(), n * n, 3, 1, 0);
  DeviceArray<uint16_t> a(n * n), b(n * n), c(n * n);
  ToBf16(a.get(), random.get(), n * n);
  FillNormal(random.get(), n * n, 4, 1, 0);
  ToBf16(b.get(), random.get(), n * n);
  DeviceArray<char> workspace(64 << 20);
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t layout;
  cublasLtMatmulPreference_t preference;
  const cublasOperation_t transpose = CUBLAS_OP_T;
  const size_t bytes = 64 << 20;
  const float one = 1, zero = 0;
  cublasLtCreate(&handle);
  cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof(transpose));
  cublasLtMatrixLayoutCreate(&layout, CUDA_R_16BF, n, n, n);
  cublasLtMatmulPreferenceCreate(&preference);
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                       sizeof(bytes));
  cublasLtMatmulHeuristicResult_t chosen;
  int found = 0;
  cublasLtMatmulAlgoGetHeuristic(handle, operation, layout, layout, layout, layout, preference, 1, &chosen,
                                 &found);
  std::vector<Stage> stages = {{"gemm", [&] {
                                  cublasLtMatmul(handle, operation, &one, a.get(), layout, b.get(), layout,
                                                 &zero, c.get(), layout, c.get(), layout, &chosen.algo,
                                                 workspace.get(), bytes, nullptr);
                                  return cudaGetLastError();
                                }}};
  TimeStages(&stages);
  return 2.0 * n * n * n / stages[0].microseconds / 1e6;
}

const ProductTile* Products(const PrefillContext& context, const PrefillRange& range) {
  return reinterpret_cast<const ProductTile*>(static_cast<const char*>(context.table) +
                                              context.plan->offsets.product) +
         range.first;
}

template <class T>
const T* List(const PrefillContext& context, int64_t offset) {
  return reinterpret_cast<const T*>(static_cast<const char*>(context.table) + offset);
}

// The launches of LaunchPrefill*, one stage each.
std::vector<Stage> Stages(const PrefillContext& context, const PrefillForwardParams& forward,
                          const PrefillFeedbackParams& feedback) {
  const PrefillPlan& plan = *context.plan;
  const PrefillBuffers buffers = ResolveBuffers(context);
  const SolveRows* rows = List<SolveRows>(context, plan.offsets.rows);
  const PrefillPlan::Panel& panel = plan.panels[0];  // the bench's pasts fit one
  SolveOperands operands;
  operands.f = feedback.f;
  operands.s = feedback.s;
  operands.saturations = feedback.saturations;
  std::vector<Stage> stages;
  stages.push_back({"forward", [=] { return LaunchPrefillForward(context, forward, nullptr); }});
  stages.push_back({"score", [=] {
                      return LaunchScore(buffers, List<ScoreTile>(context, context.plan->offsets.score),
                                         panel.score.count, feedback.qb, context.limits->max_rows, nullptr);
                    }});
  stages.push_back({"norm", [=] {
                      return LaunchWeightNorm(buffers, rows, context.plan->rows.count, 0, feedback.gamma,
                                              nullptr);
                    }});
  if (panel.past.count > 0)
    stages.push_back({"past", [=] {
                        return LaunchProduct(buffers, ProductKind::kPast, context.plan->tile_columns,
                                             Products(context, panel.past), panel.past.count, {}, nullptr);
                      }});
  stages.push_back({"base", [=] {
                      return LaunchBaseLeaves(buffers, List<LeafTile>(context, context.plan->offsets.leaves),
                                              context.plan->leaves.count, nullptr);
                    }});
  static const char* const kLevels[] = {"inv512", "inv1024", "inv2048"};
  for (size_t level = 0; level < plan.inverse.size(); level += 2) {
    stages.push_back({kLevels[level / 2], [=] {
                        for (size_t i : {level, level + 1}) {
                          const PrefillRange& range = context.plan->inverse[i];
                          const cudaError_t error = LaunchProduct(
                              buffers, i == level ? ProductKind::kInverseLeft : ProductKind::kInverse,
                              context.plan->inverse_columns, Products(context, range), range.count, {},
                              nullptr);
                          if (error != cudaSuccess) return error;
                        }
                        return cudaSuccess;
                      }});
  }
  stages.push_back({"right", [=] {
                      if (context.plan->planes == 1) {
                        return LaunchProduct(buffers, ProductKind::kRight, context.plan->tile_columns,
                                             Products(context, context.plan->right),
                                             context.plan->right.count, operands, nullptr);
                      }
                      return LaunchRightSide(buffers, rows, context.plan->rows.count, feedback.f, nullptr);
                    }});
  stages.push_back({"solve", [=] {
                      for (const PrefillPlan::Solve& solve : context.plan->solve) {
                        const cudaError_t error =
                            LaunchProduct(buffers, solve.leaf ? ProductKind::kLeaf : ProductKind::kUpdate,
                                          context.plan->solve_columns, Products(context, solve.range),
                                          solve.range.count, operands, nullptr);
                        if (error != cudaSuccess) return error;
                      }
                      return cudaSuccess;
                    }});
  return stages;
}

PrefillLimits BenchLimits(const PrefillTuning& tuning) {
  PrefillLimits limits;
  limits.shape.width = 1024;
  limits.shape.heads = 16;
  limits.shape.kv_heads = 4;
  limits.shape.layers = 2;
  limits.max_context = 32768;
  limits.tuning = tuning;
  return limits;
}

// The linear layers of `rows` new rows, one stage each, in a session of their own.
void BenchLinear(int rows, double rate) {
  constexpr int kWidth = 1024, kKv = 256, kWide = 3 * kWidth + 2 * kKv + 1;
  const int64_t wide = int64_t{rows} * kWidth;
  DeviceArray<float> random(int64_t{kWide} * kWidth), bias(kWide + 1, 0), g(wide, 0), x(wide, 0), gamma(rows);
  DeviceArray<uint16_t> weight(int64_t{kWide} * kWidth), n(wide), out(wide), out2(wide);
  FillNormal(random.get(), random.size(), 5, 0.03f, 0);
  ToBf16(weight.get(), random.get(), random.size());
  FillNormal(random.get(), wide, 6, 1, 0);
  ToBf16(n.get(), random.get(), wide);
  std::vector<RowMeta> metas(rows);
  std::vector<int32_t> pages;
  for (int i = 0; i < rows; i++) metas[i].position = i;
  for (int i = 0; i < rows; i += kPageTokens) pages.push_back(i / kPageTokens);
  DeviceArray<RowMeta> row_table(rows);
  DeviceArray<int32_t> page_table(static_cast<int64_t>(pages.size()));
  DeviceArray<float2> rotation(int64_t{rows} * 32, 0);
  row_table.FromHost(metas);
  page_table.FromHost(pages);
  LayerState state = {};
  state.width = kWidth, state.kv = kKv;
  state.v = 2 * kPageTokens * kKv, state.kb = 2 * state.v,
  state.page_bytes = state.kb + 2 * kPageTokens * kWidth;
  DeviceArray<char> slab(static_cast<int64_t>(pages.size()) * state.page_bytes);
  state.pages = slab.get();
  const PrefillLinear in{weight.get(), n.get(), 2 * kWidth, kWidth, rows, 132};
  const PrefillLinear project{weight.get(), n.get(), kWide, kWidth, rows, 132};
  const PrefillLinear square{weight.get(), n.get(), kWidth, kWidth, rows, 132};
  const ProjectEpilogueParams projected{
      bias.get(), row_table.get(), page_table.get(), rotation.get(), nullptr, nullptr,
      out.get(),  out2.get(),      gamma.get(),      state,          1.0f,    64};
  std::vector<Stage> stages = {
      {"in",
       [&] {
         return LaunchPrefillLinear(in, InEpilogueParams{bias.get(), out.get(), g.get(), kWidth, kWidth},
                                    nullptr);
       }},
      {"project", [&] { return LaunchPrefillLinear(project, projected, nullptr); }},
      {"out",
       [&] {
         return LaunchPrefillLinear(square, StoreEpilogueParams{g.get(), kWidth}, nullptr);
       }},
      {"residual", [&] {
         return LaunchPrefillLinear(square, ResidualEpilogueParams{bias.get(), x.get(), kWidth}, nullptr);
       }}};
  const double all = TimeStages(&stages);
  std::printf("linear layers of %d rows:", rows);
  const int outputs[] = {2 * kWidth, kWide, kWidth, kWidth};
  for (size_t i = 0; i < stages.size(); i++) {
    const double flop = 2.0 * rows * kWidth * outputs[i];
    std::printf(" %s %.1f (%.0f%%)", stages[i].name, stages[i].microseconds,
                flop / stages[i].microseconds / 1e6 / rate * 100);
  }
  std::printf(" | without events %.1f\n", all);
}

// Chunks of several sessions in one step, all stages together.
void BenchShortChunks(const PrefillTuning& tuning) {
  struct Batch {
    int sessions, start, rows;
  };
  for (const Batch& batch : {Batch{1, 0, 16}, Batch{1, 4096, 16}, Batch{64, 0, 32}, Batch{32, 1024, 64},
                             Batch{8, 1000, 256}, Batch{2, 4096, 1024}}) {
    PrefillCase work(BenchLimits(tuning),
                     std::vector<SegmentLength>(batch.sessions, {batch.start, batch.rows}),
                     Attention::kDiffuse, 5);
    const PrefillContext context = work.context();
    std::vector<Stage> stages = {
        {"forward", [&] { return LaunchPrefillForward(context, work.forward(), nullptr); }},
        {"prepare", [&] { return LaunchPrefillPrepare(context, work.feedback(), nullptr); }},
        {"solve", [&] { return LaunchPrefillSolve(context, work.feedback(), nullptr); }}};
    const double all = TimeStages(&stages);
    std::printf("%d sessions of %d rows on a past of %d:", batch.sessions, batch.rows, batch.start);
    for (const Stage& stage : stages) std::printf(" %s %.1f", stage.name, stage.microseconds);
    std::printf(" | without events %.1f\n", all);
  }
}

void Bench(const PrefillTuning& tuning, int tokens) {
  const double rate = GemmRate();
  std::printf("bf16 GEMM 8192^3: %.0f TFLOP/s; microseconds a layer\n", rate);
  double sum_all = 0, sum_forward = 0, flop_sum = 0;
  for (int past = 0; past < tokens; past += kChunk) {
    PrefillCase work(BenchLimits(tuning), {{past, kChunk}}, Attention::kDiffuse, past + 1);
    const PrefillContext context = work.context();
    std::vector<Stage> stages = Stages(context, work.forward(), work.feedback());
    const double all = TimeStages(&stages);
    const double pairs = kChunk * (past + kChunk / 2.0);  // query, key
    const double flop = 4 * pairs * 1024;  // of the forward attention, and again of the feedback
    std::printf("past %5d:", past);
    double sum = 0;
    for (const Stage& stage : stages) {
      std::printf(" %s %.1f", stage.name, stage.microseconds);
      const bool half = std::strcmp(stage.name, "right") == 0 || std::strcmp(stage.name, "past") == 0;
      const double part = std::strcmp(stage.name, "forward") == 0 ? flop
                          : std::strcmp(stage.name, "score") == 0 ? flop / 2
                          : half                                  ? 2.0 * kChunk * past * 1024
                                                                  : 0;
      if (part > 0) std::printf(" (%.0f%%)", part / stage.microseconds / 1e6 / rate * 100);
      sum += stage.microseconds;
    }
    sum_all += all, sum_forward += stages[0].microseconds, flop_sum += 2 * flop;
    std::printf(" | sum %.0f, without events %.0f\n", sum, all);
    const int done = past + kChunk;
    if (done == 2048 || done == 8192 || done == 16384 || done == tokens) {
      std::printf("T=%d: %.3f ms a layer (forward %.3f), floor %.3f, %.0f%% of the GEMM rate\n", done,
                  sum_all / 1e3, sum_forward / 1e3, flop_sum / rate / 1e9,
                  flop_sum / sum_all / 1e6 / rate * 100);
    }
  }
  for (const int rows : {64, 256, 512, 1024, 2048}) BenchLinear(rows, rate);
}

}  // namespace
}  // namespace sessa::cuda

int main(int argc, char** argv) {
  sessa::cuda::PrefillTuning tuning;
  int tokens = 16384;
  const std::pair<const char*, int*> flags[] = {{"--leaf=", &tuning.leaf},
                                                {"--past_columns=", &tuning.past_columns},
                                                {"--solve_columns=", &tuning.solve_columns},
                                                {"--inverse_columns=", &tuning.inverse_columns},
                                                {"--tokens=", &tokens}};
  for (int i = 1; i < argc; i++) {
    for (const auto& [name, value] : flags) {
      if (std::strncmp(argv[i], name, std::strlen(name)) == 0)
        *value = std::atoi(argv[i] + std::strlen(name));
    }
  }
  sessa::cuda::Bench(tuning, tokens);
  sessa::cuda::BenchShortChunks(tuning);
}
