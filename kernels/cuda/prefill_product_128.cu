#include "kernels/cuda/prefill_product.cuh"

namespace sessa::cuda {

template cudaError_t LaunchProductTiles<Product::kPast, 128>(const PrefillBuffers&, const ProductTile*, int,
                                                               const SolveOutputs&, cudaStream_t);
template cudaError_t LaunchProductTiles<Product::kUpdate, 128>(const PrefillBuffers&, const ProductTile*, int,
                                                               const SolveOutputs&, cudaStream_t);
template cudaError_t LaunchProductTiles<Product::kLeaf, 128>(const PrefillBuffers&, const ProductTile*, int,
                                                               const SolveOutputs&, cudaStream_t);
template cudaError_t LaunchProductTiles<Product::kInverseLeft, 128>(const PrefillBuffers&, const ProductTile*, int,
                                                               const SolveOutputs&, cudaStream_t);
template cudaError_t LaunchProductTiles<Product::kInverse, 128>(const PrefillBuffers&, const ProductTile*, int,
                                                               const SolveOutputs&, cudaStream_t);

}  // namespace sessa::cuda
