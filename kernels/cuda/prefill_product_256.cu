#include "kernels/cuda/prefill_product.cuh"

namespace sessa::cuda {

template cudaError_t LaunchProductTiles<ProductKind::kPast, 256>(const PrefillBuffers&, const ProductTile*,
                                                                 int, const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kRight, 256>(const PrefillBuffers&, const ProductTile*,
                                                                  int, const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kRightOut, 256>(const PrefillBuffers&,
                                                                     const ProductTile*, int,
                                                                     const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kUpdate, 256>(const PrefillBuffers&, const ProductTile*,
                                                                   int, const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kLeaf, 256>(const PrefillBuffers&, const ProductTile*,
                                                                 int, const SolveOperands&, cudaStream_t);

}  // namespace sessa::cuda
