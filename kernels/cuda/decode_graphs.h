// Captured decode passes, one for each pair of batch buckets. A pair's first pass runs eagerly (kernels are
// loaded then), its second is captured, and from then on it is one launch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <utility>

namespace sessa::cuda {

// One thread at a time.
class DecodeGraphs {
 public:
  DecodeGraphs() = default;
  ~DecodeGraphs() { Clear(); }
  DecodeGraphs(const DecodeGraphs&) = delete;
  DecodeGraphs& operator=(const DecodeGraphs&) = delete;

  enum class Action { kRunEagerly, kCapture, kReplay };
  // What to do with a pass of these buckets now.
  Action Next(int32_t row_bucket, int32_t output_bucket);

  // Between these, what is launched on the stream is recorded, not run.
  cudaError_t BeginCapture(cudaStream_t stream);
  cudaError_t EndCapture(int32_t row_bucket, int32_t output_bucket, cudaStream_t stream);
  cudaError_t Launch(int32_t row_bucket, int32_t output_bucket, cudaStream_t stream);

  // Forgets all captures: an address that they hold has changed. The stream must be idle.
  void Clear();
  int32_t captured() const { return captured_; }

 private:
  std::map<std::pair<int32_t, int32_t>, cudaGraphExec_t> graphs_;  // null: ran eagerly so far
  int32_t captured_ = 0;
};

}  // namespace sessa::cuda
