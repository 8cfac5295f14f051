// Random numbers in device memory, for benches and their state.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/model_shape.h"

namespace sessa::cuda {

// Fills `blocks` runs of `count` numbers, `pitch` bytes from one to the next, with numbers uniform in [-1,
// 1); the same for the same arguments. Asynchronous.
cudaError_t FillRandom(void* base, DType dtype, int64_t count, int64_t pitch, int64_t blocks, uint64_t seed,
                       cudaStream_t stream);

}  // namespace sessa::cuda
