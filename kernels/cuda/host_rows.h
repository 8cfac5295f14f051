// The rows of a step that the host draws or scores, because the device cannot give all that is asked of them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/host_sampler.h"
#include "kernels/ops.h"

namespace sessa::cuda {

// Their logits come to page-locked memory of a fixed size, in the stream's order; a step that has more of
// them than it holds is sampled in pieces, for which the host waits. Allocates nothing after Allocate. One
// thread at a time.
class HostRows {
 public:
  // Room for `rows` rows of `vocab` logits.
  absl::Status Allocate(int32_t vocab, int32_t rows);

  // A step begins; the batch stays until Sample.
  void Begin(const StepBatch& batch);
  // After the launches that make logits (count, vocab) of outputs [first, first + count), before any that
  // overwrite them: brings those of the host's rows among them. Ranges ascend; each row is taken once.
  cudaError_t Take(int32_t first, int32_t count, const float* logits, cudaStream_t stream);
  // Draws and scores what has been taken and is not sampled yet. The stream has done the copies.
  void Sample();

  // Of the batch's outputs, ascending; and what came of each.
  const std::vector<int32_t>& outputs() const { return outputs_; }
  const std::vector<OutputResult>& results() const { return results_; }

 private:
  int32_t vocab_ = 0, room_ = 0;
  PinnedBuffer logits_;  // (room, vocab): row i is outputs()[results().size() + i]
  SampleScratch scratch_;

  const StepBatch* batch_ = nullptr;
  std::vector<int32_t> outputs_;
  int32_t taken_ = 0;                  // of outputs_
  std::vector<OutputResult> results_;  // of the first ones
};

}  // namespace sessa::cuda
