// Captured decode passes, one for each kind of pass. The first of a kind runs eagerly (kernels are loaded
// then), the second is captured, and from then on it is one launch.
#pragma once

#include <cuda_runtime_api.h>

#include <compare>
#include <cstdint>
#include <map>

namespace sessa::cuda {

// One thread at a time.
class DecodeGraphs {
 public:
  DecodeGraphs() = default;
  ~DecodeGraphs() { Clear(); }
  DecodeGraphs(const DecodeGraphs&) = delete;
  DecodeGraphs& operator=(const DecodeGraphs&) = delete;

  // What a captured pass depends on.
  struct Pass {
    int32_t row_bucket;
    bool outputs;  // whether it ends with logits and tokens
    auto operator<=>(const Pass&) const = default;
  };

  enum class Action { kRunEagerly, kCapture, kReplay };
  // What to do with a pass of this kind now.
  Action Next(const Pass& pass);

  // Between these, what is launched on the stream is recorded, not run.
  cudaError_t BeginCapture(cudaStream_t stream);
  cudaError_t EndCapture(const Pass& pass, cudaStream_t stream);
  cudaError_t Launch(const Pass& pass, cudaStream_t stream);

  // Forgets all captures: an address that they hold has changed. The stream must be idle.
  void Clear();

 private:
  std::map<Pass, cudaGraphExec_t> graphs_;  // null: ran eagerly so far
};

}  // namespace sessa::cuda
