#include "kernels/cuda/decode_gemm_ring.cuh"

namespace sessa::cuda {

cudaError_t LaunchDecodeGemm(const DecodeGemm& gemm, const FeedbackEpilogueParams& epilogue,
                             const LaunchContext& context) {
  return LaunchDecodeGemmRows(gemm, FeedbackEpilogue(epilogue), context);
}

cudaError_t LaunchDecodeGemm(const DecodeGemm& gemm, const ResidualEpilogueParams& epilogue,
                             const LaunchContext& context) {
  return LaunchDecodeGemmRows(gemm, ResidualEpilogue(epilogue), context);
}

}  // namespace sessa::cuda
