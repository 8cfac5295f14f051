#include "kernels/cuda/activations.h"

namespace sessa::cuda {

absl::Status Activations::Allocate(const Sizes& sizes) {
  const int64_t rows = sizes.rows, wide = rows * sizes.shape.width, padded = rows * sizes.pitch;
  absl::Status status;
  const auto take = [&](auto*& pointer, int64_t bytes) {
    if (!status.ok()) return;
    absl::StatusOr<DeviceBuffer> buffer = AllocateDevice(bytes, "activations");
    if (!buffer.ok()) {
      status = buffer.status();
      return;
    }
    memory_.push_back(std::move(*buffer));
    pointer = reinterpret_cast<std::decay_t<decltype(pointer)>>(memory_.back().as<void>());
  };
  for (float** floats : {&x, &g, &q, &qb, &f, &s, &ctx}) take(*floats, 4 * wide);
  for (void** halves : {&n, &abar, &o_bf16, &o_padded, &u}) take(*halves, 2 * padded);
  for (void** halves : {&q_bf16, &qb_bf16}) take(*halves, 2 * wide);
  take(rotation, rows * (sizes.shape.head_width() / 2) * static_cast<int64_t>(sizeof(float2)));
  take(gamma, 4 * rows);
  take(product, 4 * rows * sizes.project_outputs);
  take(head_n, 2 * int64_t{sizes.output_rows} * sizes.pitch);
  take(logits, 4 * int64_t{sizes.output_rows} * sizes.shape.vocab);
  take(slots, 4 * int64_t{sizes.slots});
  take(partials, 4 * sizes.partials * sizes.partial_floats);
  take(arrivals, 4 * sizes.partials * AttentionShape::kCounters);
  take(next_item, 2 * 4);
  return status;
}

}  // namespace sessa::cuda
