// Picks the instantiation of a product (prefill_product_*.cu).
#include "kernels/cuda/prefill_launch.h"

namespace sessa::cuda {

template <Product kProduct, int kTileColumns>
cudaError_t LaunchProductTiles(const PrefillBuffers& buffers, const ProductTile* tiles, int count,
                               const SolveOutputs& outputs, cudaStream_t stream);

namespace {

template <Product kProduct>
cudaError_t ByColumns(const PrefillBuffers& buffers, int tile_columns, const ProductTile* tiles, int count,
                      const SolveOutputs& outputs, cudaStream_t stream) {
  constexpr bool kInverse = kProduct == Product::kInverseLeft || kProduct == Product::kInverse;
  if (tile_columns == 64) return LaunchProductTiles<kProduct, 64>(buffers, tiles, count, outputs, stream);
  if (tile_columns == 128) return LaunchProductTiles<kProduct, 128>(buffers, tiles, count, outputs, stream);
  if constexpr (!kInverse) {
    return LaunchProductTiles<kProduct, 256>(buffers, tiles, count, outputs, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t LaunchProduct(const PrefillBuffers& buffers, Product product, int tile_columns, const ProductTile* tiles,
                          int count, const SolveOutputs& outputs, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const auto launch = [&](auto by_columns) { return by_columns(buffers, tile_columns, tiles, count, outputs, stream); };
  switch (product) {
    case Product::kPast: return launch(ByColumns<Product::kPast>);
    case Product::kInverseLeft: return launch(ByColumns<Product::kInverseLeft>);
    case Product::kInverse: return launch(ByColumns<Product::kInverse>);
    case Product::kUpdate: return launch(ByColumns<Product::kUpdate>);
    case Product::kLeaf: return launch(ByColumns<Product::kLeaf>);
  }
  return cudaErrorInvalidValue;
}

}  // namespace sessa::cuda
