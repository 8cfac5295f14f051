#include "kernels/cuda/prefill_product.cuh"

namespace sessa::cuda {

template cudaError_t LaunchProductTiles<Product::kPast, 256>(const PrefillBuffers&, const ProductTile*, int,
                                                               const SolveOutputs&, cudaStream_t);
template cudaError_t LaunchProductTiles<Product::kUpdate, 256>(const PrefillBuffers&, const ProductTile*, int,
                                                               const SolveOutputs&, cudaStream_t);
template cudaError_t LaunchProductTiles<Product::kLeaf, 256>(const PrefillBuffers&, const ProductTile*, int,
                                                               const SolveOutputs&, cudaStream_t);

}  // namespace sessa::cuda
