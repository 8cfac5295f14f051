// The launchers of prefill.h: which kernels run for a plan, in which order.
#include "kernels/cuda/prefill_launch.h"

namespace sessa::cuda {
namespace {

// The first error of a sequence of launches.
class Sequence {
 public:
  template <class Launch>
  void Run(const Launch& launch) {
    if (error_ == cudaSuccess) error_ = launch();
  }
  cudaError_t error() const { return error_; }

 private:
  cudaError_t error_ = cudaSuccess;
};

template <class T>
const T* List(const PrefillContext& context, int64_t offset, int32_t first = 0) {
  return reinterpret_cast<const T*>(static_cast<const char*>(context.table) + offset) + first;
}

const ProductTile* ProductTiles(const PrefillContext& context, const PrefillRange& range) {
  return List<ProductTile>(context, context.plan->offsets.product, range.first);
}

}  // namespace

PrefillBuffers ResolveBuffers(const PrefillContext& context) {
  const WorkspaceLayout workspace = MakeWorkspaceLayout(*context.limits);
  const StateLayout& state = *context.state.layout;
  const PrefillPlan& plan = *context.plan;
  char* base = static_cast<char*>(context.workspace);
  char* pages = static_cast<char*>(context.state.pages);
  PrefillBuffers buffers;
  buffers.segments = List<DeviceSegment>(context, plan.offsets.segments);
  buffers.page_table = context.state.page_table;
  buffers.D = state.shape.width;
  buffers.padded_rows = plan.padded_rows;
  buffers.width = workspace.width;
  buffers.panel_columns = plan.panel_columns;
  buffers.panel = reinterpret_cast<__half*>(base + workspace.panel);
  buffers.stats = reinterpret_cast<float2*>(base + workspace.stats);
  float* rows = reinterpret_cast<float*>(base + workspace.row_state);
  buffers.row_max = rows;
  buffers.row_sum = rows + workspace.rows;
  buffers.sigma = rows + 2 * int64_t{workspace.rows};
  buffers.rescale = rows + 3 * int64_t{workspace.rows};
  buffers.inverse = reinterpret_cast<__half*>(base + workspace.inverse);
  buffers.product = reinterpret_cast<__half*>(base + workspace.product);
  buffers.planes = reinterpret_cast<float*>(base + workspace.planes);
  buffers.r = reinterpret_cast<float*>(base + workspace.r);
  buffers.r_half = reinterpret_cast<__half*>(base + workspace.r_half);
  buffers.s_half = reinterpret_cast<__half*>(base + workspace.s_half);
  buffers.kb_plane = pages + state.PlaneOffset(context.state.layer, Plane::kKb);
  buffers.s_plane = pages + state.PlaneOffset(context.state.layer, Plane::kS);
  buffers.open_plane = static_cast<char*>(context.state.open_pages) + state.OpenOffset(context.state.layer);
  buffers.page_bytes = state.page_bytes();
  buffers.open_page_bytes = state.open_page_bytes();
  buffers.page_count = context.state.page_count;
  buffers.multiprocessors = context.limits->multiprocessors;
  return buffers;
}

cudaError_t LaunchPrefillForward(const PrefillContext& context, const PrefillForwardParams& params,
                                 cudaStream_t stream) {
  if (context.plan->segments.empty()) return cudaSuccess;
  if (FastForwardShape(*context.limits))
    return LaunchFlashForward(context, params, context.limits->multiprocessors, stream);
  return LaunchPlainForward(context, params, stream);
}

namespace {

cudaError_t LaunchPanelScore(const PrefillContext& context, const PrefillBuffers& buffers,
                             const PrefillPlan::Panel& panel, const void* qb, cudaStream_t stream) {
  const ScoreTile* tiles = List<ScoreTile>(context, context.plan->offsets.score, panel.score.first);
  return LaunchScore(buffers, tiles, panel.score.count, qb, context.limits->max_rows, stream);
}

// The leaf inverses, on `buffers.multiprocessors`.
void RunInverses(const PrefillContext& context, const PrefillBuffers& buffers, cudaStream_t stream,
                 Sequence* sequence) {
  const PrefillPlan& plan = *context.plan;
  sequence->Run([&] {
    return LaunchBaseLeaves(buffers, List<LeafTile>(context, plan.offsets.leaves), plan.leaves.count, stream);
  });
  for (size_t level = 0; level < plan.inverse.size(); level++) {
    sequence->Run([&] {
      return LaunchProduct(buffers, level % 2 == 0 ? ProductKind::kInverseLeft : ProductKind::kInverse,
                           plan.inverse_columns, ProductTiles(context, plan.inverse[level]),
                           plan.inverse[level].count, {}, stream);
    });
  }
}

}  // namespace

cudaError_t LaunchPrefillPrepare(const PrefillContext& context, const PrefillFeedbackParams& params,
                                 cudaStream_t stream) {
  const PrefillPlan& plan = *context.plan;
  if (plan.fast_segments == 0) return cudaSuccess;
  const PrefillBuffers buffers = ResolveBuffers(context);
  const SolveRows* rows = List<SolveRows>(context, plan.offsets.rows);
  Sequence sequence;
  for (const PrefillPlan::Panel& panel : plan.panels) {
    sequence.Run([&] { return LaunchPanelScore(context, buffers, panel, params.qb, stream); });
    sequence.Run(
        [&] { return LaunchWeightNorm(buffers, rows, plan.rows.count, panel.index, params.gamma, stream); });
    sequence.Run([&] {
      return LaunchProduct(buffers, ProductKind::kPast, plan.tile_columns, ProductTiles(context, panel.past),
                           panel.past.count, {}, stream);
    });
  }
  RunInverses(context, buffers, stream, &sequence);
  return sequence.error();
}

// Scores first, on all multiprocessors; then the forward kernel on most of them and, on the side stream, the
// chain of inverses on the rest.
cudaError_t LaunchPrefillAttention(const PrefillContext& context, const PrefillForwardParams& forward,
                                   const PrefillFeedbackParams& feedback, cudaStream_t stream) {
  const PrefillPlan& plan = *context.plan;
  const PrefillSide& side = context.side;
  if (plan.forward_blocks == 0 || side.stream == nullptr) {
    const cudaError_t error = LaunchPrefillForward(context, forward, stream);
    return error != cudaSuccess ? error : LaunchPrefillPrepare(context, feedback, stream);
  }
  PrefillBuffers buffers = ResolveBuffers(context);
  const SolveRows* rows = List<SolveRows>(context, plan.offsets.rows);
  Sequence sequence;
  sequence.Run([&] { return LaunchPanelScore(context, buffers, plan.panels[0], feedback.qb, stream); });
  sequence.Run([&] { return cudaEventRecord(side.begin, stream); });
  sequence.Run([&] { return LaunchFlashForward(context, forward, plan.forward_blocks, stream); });
  sequence.Run([&] { return cudaStreamWaitEvent(side.stream, side.begin, 0); });
  sequence.Run(
      [&] { return LaunchWeightNorm(buffers, rows, plan.rows.count, 0, feedback.gamma, side.stream); });
  buffers.multiprocessors = plan.beside_blocks;
  RunInverses(context, buffers, side.stream, &sequence);
  sequence.Run([&] { return cudaEventRecord(side.end, side.stream); });
  sequence.Run([&] { return cudaStreamWaitEvent(stream, side.end, 0); });
  return sequence.error();
}

cudaError_t LaunchPrefillSolve(const PrefillContext& context, const PrefillFeedbackParams& params,
                               cudaStream_t stream) {
  const PrefillPlan& plan = *context.plan;
  Sequence sequence;
  if (plan.fast_segments > 0) {
    const PrefillBuffers buffers = ResolveBuffers(context);
    SolveOperands operands;
    operands.f = params.f;
    operands.o = params.o;
    operands.out_weight = params.out_weight;
    operands.s = params.s;
    operands.g = params.g;
    operands.u = params.u;
    operands.saturations = params.saturations;
    operands.rows = context.limits->max_rows;
    sequence.Run([&] {
      if (plan.planes == 1) {
        return LaunchProduct(buffers, params.f == nullptr ? ProductKind::kRightOut : ProductKind::kRight,
                             plan.tile_columns, ProductTiles(context, plan.right), plan.right.count, operands,
                             stream);
      }
      return LaunchRightSide(buffers, List<SolveRows>(context, plan.offsets.rows), plan.rows.count, params.f,
                             stream);
    });
    for (const PrefillPlan::Solve& solve : plan.solve) {
      sequence.Run([&] {
        return LaunchProduct(buffers, solve.leaf ? ProductKind::kLeaf : ProductKind::kUpdate,
                             plan.solve_columns, ProductTiles(context, solve.range), solve.range.count,
                             operands, stream);
      });
    }
    if (plan.substitutes) {
      sequence.Run([&] { return LaunchSubstitute(buffers, plan.fast_segments, operands, stream); });
    }
  }
  sequence.Run([&] { return LaunchPlainSolve(context, params, stream); });
  return sequence.error();
}

}  // namespace sessa::cuda
