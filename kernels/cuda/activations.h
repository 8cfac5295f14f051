// Device memory of a step: activations, results and the kernels' scratch. Sized once; passes of a step use
// the same buffers, one after the other.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/kernels.h"
#include "kernels/model_shape.h"

namespace sessa::cuda {

struct Activations {
  struct Sizes {
    ModelShape shape;
    int32_t rows = 0;             // of a pass, padding included
    int32_t pitch = 0;            // K
    int32_t output_rows = 0;      // of a Head slice
    int32_t project_outputs = 0;  // padded
    int32_t slots = 0;
    int64_t partials = 0;  // of attention, each of ...
    int64_t partial_floats = 0;
  };
  absl::Status Allocate(const Sizes& sizes);

  float* x = nullptr;          // (rows, D) the residual stream
  float2* rotation = nullptr;  // (rows, d / 2)
  void* n = nullptr;           // (rows, K) bf16
  void* abar = nullptr;        // (rows, K) bf16
  float* g = nullptr;          // (rows, D)
  float* q = nullptr;          // (rows, D); decode
  float* qb = nullptr;         // (rows, D); decode
  void* q_bf16 = nullptr;      // (rows, D); prefill
  void* qb_bf16 = nullptr;     // (rows, D); prefill
  float* gamma = nullptr;      // (rows)
  void* o_bf16 = nullptr;      // (rows, K) in decode, (rows, D) in prefill
  void* o_padded = nullptr;    // (rows, K) bf16; prefill, where K != D
  float* f = nullptr;          // (rows, D); also o of a one-head model
  float* s = nullptr;          // (rows, D)
  float* ctx = nullptr;        // (rows, D); decode
  void* u = nullptr;           // (rows, K) bf16
  float* product = nullptr;    // (rows, 3D + 2kv + 1 padded)
  void* head_n = nullptr;      // (output_rows, K) bf16
  float* logits = nullptr;     // (output_rows, V)
  int32_t* slots = nullptr;    // (slots) tokens sampled last
  float* partials = nullptr;
  int32_t* arrivals = nullptr;   // AttentionShape::kCounters for each partial
  int32_t* next_item = nullptr;  // (2)

 private:
  std::vector<DeviceBuffer> memory_;
};

}  // namespace sessa::cuda
