#include "kernels/cuda/few_rows_pass.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/cuda/attention_schedule.h"

namespace sessa::cuda {

void FillFewRowsTables(const char* tables, const StepPlan& plan, FewRowsTables* few) {
  const TableLayout& layout = plan.layout;
  const auto* rows = reinterpret_cast<const RowMeta*>(tables + layout.decode_rows);
  const auto* outputs = reinterpret_cast<const OutputMeta*>(tables + layout.prefill_outputs);
  const auto* pages = reinterpret_cast<const int32_t*>(tables + layout.pages);
  int32_t page_count = 0;
  for (int32_t r = 0; r < plan.decode_rows; ++r) {
    RowMeta& row = few->rows[r] = rows[r];
    const int32_t own_pages = row.position / kBlockTokens + 1;
    std::copy_n(pages + row.page_begin, own_pages, few->pages + page_count);
    row.page_begin = page_count;
    page_count += own_pages;
  }
  for (int32_t i = 0; i < plan.decode_outputs; ++i) few->output_rows[i] = outputs[i].row;
  std::copy_n(reinterpret_cast<const int32_t*>(tables + layout.feedback_first), plan.row_bucket + 1,
              few->feedback_first);
  std::copy_n(reinterpret_cast<const int32_t*>(tables + layout.forward_first), plan.row_bucket + 1,
              few->forward_first);
  few->epoch = reinterpret_cast<const DecodeHeader*>(tables + layout.header)->epoch;
}

absl::Status FewRowsPassRunner::Start(const ModelShape& shape, const AttentionShape& attention,
                                      const Weights& weights, int32_t multiprocessors) {
  shape_ = shape;
  attention_ = attention;
  multiprocessors_ = multiprocessors;
  most_units_ = std::min(kFewUnits, multiprocessors / kMaxLeaves);  // a leaf for each block of threads
  pitch_ = weights.pitch();
  project_outputs_ = weights.layer(0).project.outputs;
  y_pitch_ = (project_outputs_ + 1) / 2 * 2;
  if (!FewRowsFits(shape.width, shape.heads, project_outputs_, multiprocessors, attention))
    return absl::OkStatus();
  absl::StatusOr<DeviceBuffer> mail =
      AllocateDevice(FewRowsMailBytes(shape.width, y_pitch_, attention), "mailboxes");
  if (!mail.ok()) return mail.status();
  absl::StatusOr<DeviceBuffer> layers =
      AllocateDevice(shape.layers * static_cast<int64_t>(sizeof(FewRowsLayer)), "the table of layers");
  if (!layers.ok()) return layers.status();
  mail_ = std::move(*mail);
  layers_ = std::move(*layers);
  return absl::OkStatus();
}

absl::Status FewRowsPassRunner::SetState(const Weights& weights, const StateSlab& slab, cudaStream_t stream) {
  if (mail_.bytes() == 0) return absl::OkStatus();
  std::vector<FewRowsLayer> layers(shape_.layers);
  for (int32_t l = 0; l < shape_.layers; ++l) {
    const LayerWeights& w = weights.layer(l);
    layers[l] = {w.norm.weight,  w.norm.bias,  w.in.weight,       w.in.bias,       w.project.weight,
                 w.project.bias, w.out.weight, w.residual.weight, w.residual.bias, slab.Layer(l)};
  }
  // From pageable memory: the copy has left it when the call returns.
  return ToStatus(cudaMemcpyAsync(layers_.as(), layers.data(), layers.size() * sizeof(FewRowsLayer),
                                  cudaMemcpyHostToDevice, stream),
                  "the table of layers");
}

cudaError_t FewRowsPassRunner::NextEpoch(cudaStream_t stream, uint32_t* epoch) {
  if (mail_.bytes() == 0) return cudaSuccess;
  const uint32_t layers = static_cast<uint32_t>(shape_.layers);
  if (next_epoch_ > std::numeric_limits<uint32_t>::max() - 2 * layers) {  // what is old would look new
    const cudaError_t error = cudaMemsetAsync(mail_.as(), 0, mail_.bytes(), stream);
    if (error != cudaSuccess) return error;
    next_epoch_ = 1;
  }
  *epoch = next_epoch_;
  next_epoch_ += layers + 1;
  return cudaSuccess;
}

cudaError_t FewRowsPassRunner::Launch(FewRowsParams params, cudaStream_t stream) const {
  params.layers = layers_.as<FewRowsLayer>();
  params.mail = FewRowsMailAt(mail_.as(), shape_.width, y_pitch_);
  params.attention = attention_;
  params.layer_count = shape_.layers;
  params.width = shape_.width;
  params.pitch = pitch_;
  params.kv = shape_.kv_width();
  params.head_width = shape_.head_width();
  while (1 << params.head_shift < params.head_width) ++params.head_shift;
  params.group = shape_.heads / shape_.kv_heads;
  params.column_chunks = (params.kv + 255) / 256;
  params.project_outputs = project_outputs_;
  params.y_pitch = y_pitch_;
  params.vocab = shape_.vocab;
  params.norm_eps = shape_.norm_eps;
  params.gamma_max = static_cast<float>(shape_.gamma_max);
  return LaunchFewRows(params, multiprocessors_, stream);
}

}  // namespace sessa::cuda
