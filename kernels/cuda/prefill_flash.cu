#include "kernels/cuda/prefill_flash.cuh"

#include <cmath>

#include "kernels/cuda/prefill_launch.h"

namespace sessa::cuda {

cudaError_t LaunchFlashForward(const PrefillContext& context, const PrefillForwardParams& params,
                               int32_t multiprocessors, cudaStream_t stream) {
  const PrefillPlan& plan = *context.plan;
  const StateLayout& layout = *context.state.layout;
  const ModelShape& shape = layout.shape;
  const char* table = static_cast<const char*>(context.table);
  const char* pages = static_cast<const char*>(context.state.pages);
  const int64_t rows = context.limits->max_rows;
  FlashParams p{};
  cudaError_t error = MakeMatrixMap(&p.q, params.q, rows, shape.width, int64_t{2} * shape.width, 64);
  if (error != cudaSuccess) return error;
  for (const bool is_k : {true, false}) {
    const int64_t offset = layout.PlaneOffset(context.state.layer, is_k ? Plane::kK : Plane::kV);
    error = MakePageMap(is_k ? &p.k : &p.v, pages + offset, context.state.page_count, shape.kv_width(),
                        layout.page_bytes());
    if (error != cudaSuccess) return error;
  }
  p.tiles = reinterpret_cast<const ForwardTile*>(table + plan.offsets.forward);
  p.work = plan.forward.count * shape.heads;
  p.page_table = context.state.page_table;
  p.o = static_cast<__nv_bfloat16*>(params.o);
  p.heads = shape.heads;
  p.heads_per_kv = shape.heads / shape.kv_heads;
  p.D = shape.width;
  p.scale = static_cast<float>(M_LOG2E / std::sqrt(static_cast<double>(shape.head_width())));
  return shape.head_width() == 128 ? LaunchFlash<FlashShape<128>>(p, multiprocessors, stream)
                                   : LaunchFlash<FlashShape<64>>(p, multiprocessors, stream);
}

}  // namespace sessa::cuda
