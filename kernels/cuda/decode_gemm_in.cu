#include "kernels/cuda/decode_gemm_ring.cuh"

namespace sessa::cuda {

cudaError_t LaunchDecodeGemm(const DecodeGemm& gemm, const InEpilogueParams& epilogue,
                             const LaunchContext& context) {
  return LaunchDecodeGemmRows(gemm, InEpilogue(epilogue), context);
}

}  // namespace sessa::cuda
