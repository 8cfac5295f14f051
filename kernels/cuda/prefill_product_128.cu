#include "kernels/cuda/prefill_product.cuh"

namespace sessa::cuda {

template cudaError_t LaunchProductTiles<ProductKind::kPast, 128>(const PrefillBuffers&, const ProductTile*,
                                                                 int, const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kRight, 128>(const PrefillBuffers&, const ProductTile*,
                                                                  int, const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kRightOut, 128>(const PrefillBuffers&,
                                                                     const ProductTile*, int,
                                                                     const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kUpdate, 128>(const PrefillBuffers&, const ProductTile*,
                                                                   int, const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kLeaf, 128>(const PrefillBuffers&, const ProductTile*,
                                                                 int, const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kInverseLeft, 128>(const PrefillBuffers&,
                                                                        const ProductTile*, int,
                                                                        const SolveOperands&, cudaStream_t);
template cudaError_t LaunchProductTiles<ProductKind::kInverse, 128>(const PrefillBuffers&, const ProductTile*,
                                                                    int, const SolveOperands&, cudaStream_t);

}  // namespace sessa::cuda
