// The host side of the few-rows kernel: its mailboxes, its table of layers and the epochs of its steps.
#pragma once

#include "absl/status/status.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/state_slab.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/cuda/weights.h"
#include "kernels/model_shape.h"

namespace sessa::cuda {

// The decode pass of `plan`, whose tables are on the host.
void FillFewRowsTables(const char* tables, const StepPlan& plan, FewRowsTables* few);

// One thread at a time.
class FewRowsPassRunner {
 public:
  // Takes no rows where the shape or the card does not allow the kernel.
  absl::Status Start(const ModelShape& shape, const AttentionShape& attention, const Weights& weights,
                     int32_t multiprocessors);
  // The state that layers read and write.
  absl::Status SetState(const Weights& weights, const StateSlab& slab, cudaStream_t stream);

  // Whether the kernel should run a step's decode pass. With more state to stream, the kernels of the general
  // pass are faster.
  bool Takes(const StepPlan& plan) const {
    return mail_.bytes() != 0 && plan.decode_rows > 0 && plan.row_bucket <= kFewRows &&
           plan.attention_units <= most_units_;
  }
  // For the header of a step's tables; before the step's copies on the stream.
  cudaError_t NextEpoch(cudaStream_t stream, uint32_t* epoch);
  // `params` without what is set up here.
  cudaError_t Launch(FewRowsParams params, cudaStream_t stream) const;

 private:
  ModelShape shape_;
  AttentionShape attention_;
  int32_t multiprocessors_ = 0;
  int32_t most_units_ = 0;
  int32_t pitch_ = 0, project_outputs_ = 0, y_pitch_ = 0;
  DeviceBuffer mail_, layers_;
  uint32_t next_epoch_ = 1;
};

}  // namespace sessa::cuda
