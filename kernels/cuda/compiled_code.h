// Which of the embedded code the current device runs: that for sm_90a, or what the driver makes of the PTX
// for compute capability 8.0. How kernels may be launched and which may be used follows from this, not from
// the card's own capability: cards after Hopper run the PTX, too. So does a Hopper card in a build without
// the former (SESSA_CUDA_CODE).
#pragma once

#include <cuda_runtime_api.h>

namespace sessa::cuda {

cudaError_t RunsHopperCode(bool* hopper);

}  // namespace sessa::cuda
