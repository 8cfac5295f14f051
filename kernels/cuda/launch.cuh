// Launches kernels, as a programmatic dependent of the one before it where the card can.
#pragma once

#include <cuda_runtime.h>

#include <utility>

namespace sessa::cuda {

// Lets a kernel have that much dynamic shared memory; every card that the code runs on has 99 KiB of it for a
// block.
template <typename... Params>
cudaError_t AllowShared(void (*kernel)(Params...), size_t bytes) {
  constexpr size_t kWithoutAsking = 40 * 1024;  // and 8 KiB for what is static
  if (bytes <= kWithoutAsking) return cudaSuccess;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

template <typename... Params, typename... Args>
cudaError_t LaunchKernel(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
                         bool dependent, cudaStream_t stream, Args&&... args) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = dependent ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, Params(std::forward<Args>(args))...);
}

}  // namespace sessa::cuda
