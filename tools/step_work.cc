#include "tools/step_work.h"

namespace sessa {
namespace {

// Of the matrices of one layer; biases and norms are negligible.
int64_t LayerMatrices(const ModelShape& shape) {
  const int64_t d = shape.width, kv = shape.kv_width();
  return d * (2 * d + d + 2 * kv + 2 * d + (shape.has_out_proj() ? d : 0) + 1 + d);
}

int64_t Table(const ModelShape& shape) { return int64_t{shape.vocab} * shape.width; }

// The backend's own storage decides how many bytes a weight takes.
double WeightBytesRead(const ModelShape& shape, const OpsInfo& info) {
  return static_cast<double>(info.weight_bytes) * ParametersReadPerStep(shape) / ParameterCount(shape);
}

// Both attentions: a score and a weighted sum, each 2 D, for one (row, past row) pair of all layers.
double PairFlops(const ModelShape& shape) { return 8.0 * shape.width * shape.layers; }

}  // namespace

int64_t ParameterCount(const ModelShape& shape) {
  return shape.layers * LayerMatrices(shape) + (shape.tied_head ? 1 : 2) * Table(shape);
}

int64_t ParametersReadPerStep(const ModelShape& shape) {
  return shape.layers * LayerMatrices(shape) + Table(shape);
}

Work DecodeWork(const StateLayout& layout, const OpsInfo& info, int64_t batch, int64_t context) {
  const ModelShape& shape = layout.shape;
  Work work;
  work.bytes = WeightBytesRead(shape, info) + static_cast<double>(batch) * context * layout.token_bytes();
  work.flops = batch * (2.0 * ParametersReadPerStep(shape) + PairFlops(shape) * context);
  return work;
}

Work PrefillWork(const StateLayout& layout, const OpsInfo& info, int64_t batch, int64_t tokens,
                 int64_t steps) {
  const ModelShape& shape = layout.shape;
  Work work;
  work.bytes =
      steps * WeightBytesRead(shape, info) + static_cast<double>(batch) * tokens * layout.token_bytes();
  work.flops = batch * (2.0 * tokens * shape.layers * LayerMatrices(shape) + 2.0 * Table(shape) +
                        PairFlops(shape) * tokens * tokens / 2.0);
  return work;
}

}  // namespace sessa
