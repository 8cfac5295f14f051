// Launches that overlap their start with the end of the kernel before them (programmatic dependent launch).
#pragma once

#include <cuda_runtime.h>

namespace sessa::cuda {

// Programmatic dependent launch: a kernel may start while the one before it in the stream still runs.
// Everything that kernel wrote is visible after WaitForPrevious; before it, only what no kernel writes may be
// read (the plan's table). Without Hopper code these are nothing, and so is the overlap.
__device__ __forceinline__ void AllowNext() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void WaitForPrevious() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// kernel<<<grid, threads, shared, stream>>>(arguments...); the kernel calls WaitForPrevious in every thread.
// kCluster blocks after each other form a cluster.
template <int kCluster = 1, class... Parameters, class... Arguments>
cudaError_t LaunchOverlapped(void (*kernel)(Parameters...), dim3 grid, int threads, int shared,
                             cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = kCluster;
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = kCluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

}  // namespace sessa::cuda
