#include "kernels/cuda/compiled_code.h"

namespace sessa::cuda {
namespace {

__global__ void EmptyKernel() {}

}  // namespace

cudaError_t RunsHopperCode(bool* hopper) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, EmptyKernel);
  if (error == cudaSuccess) *hopper = attributes.ptxVersion == 90;
  return error;
}

}  // namespace sessa::cuda
