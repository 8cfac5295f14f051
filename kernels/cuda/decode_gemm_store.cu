#include "kernels/cuda/decode_gemm_ring.cuh"

namespace sessa::cuda {

cudaError_t LaunchDecodeGemm(const DecodeGemm& gemm, const StoreEpilogueParams& epilogue,
                             const LaunchContext& context) {
  return LaunchDecodeGemmRows(gemm, StoreEpilogue(epilogue), context);
}

}  // namespace sessa::cuda
