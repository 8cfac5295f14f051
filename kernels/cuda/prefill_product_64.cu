#include "kernels/cuda/prefill_product.cuh"

namespace sessa::cuda {

template cudaError_t LaunchProductTiles<ProductKind::kPast, 64>(const PrefillBuffers&, const ProductTile*,
                                                                int, const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kRight, 64>(const PrefillBuffers&, const ProductTile*,
                                                                 int, const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kRightOut, 64>(const PrefillBuffers&, const ProductTile*,
                                                                    int, const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kUpdate, 64>(const PrefillBuffers&, const ProductTile*,
                                                                  int, const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kLeaf, 64>(const PrefillBuffers&, const ProductTile*,
                                                                int, const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kInverseLeft, 64>(const PrefillBuffers&,
                                                                       const ProductTile*, int,
                                                                       const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kInverse, 64>(const PrefillBuffers&, const ProductTile*,
                                                                   int, const SolveOperands&, cudaStream_t);

}  // namespace sessa::cuda
