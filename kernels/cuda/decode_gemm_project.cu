#include "kernels/cuda/decode_gemm_ring.cuh"

namespace sessa::cuda {

cudaError_t LaunchDecodeGemm(const DecodeGemm& gemm, const ProjectEpilogueParams& epilogue,
                             const LaunchContext& context) {
  return LaunchDecodeGemmRows(gemm, ProjectEpilogue(epilogue), context);
}

}  // namespace sessa::cuda
