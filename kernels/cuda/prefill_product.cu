// Picks the instantiation of a product (prefill_product_*.cu).
#include "kernels/cuda/prefill_launch.h"

namespace sessa::cuda {

template <ProductKind kProduct, int kTileColumns>
cudaError_t LaunchProductTiles(const PrefillBuffers& buffers, const ProductTile* tiles, int count,
                               const SolveOperands& operands, cudaStream_t stream);

namespace {

template <ProductKind kProduct>
cudaError_t ByColumns(const PrefillBuffers& buffers, int tile_columns, const ProductTile* tiles, int count,
                      const SolveOperands& operands, cudaStream_t stream) {
  constexpr bool kInverse = kProduct == ProductKind::kInverseLeft || kProduct == ProductKind::kInverse;
  if (tile_columns == 64) return LaunchProductTiles<kProduct, 64>(buffers, tiles, count, operands, stream);
  if (tile_columns == 128) return LaunchProductTiles<kProduct, 128>(buffers, tiles, count, operands, stream);
  if constexpr (!kInverse) {
    return LaunchProductTiles<kProduct, 256>(buffers, tiles, count, operands, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t LaunchProduct(const PrefillBuffers& buffers, ProductKind product, int tile_columns,
                          const ProductTile* tiles, int count, const SolveOperands& operands,
                          cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const auto launch = [&](auto by_columns) {
    return by_columns(buffers, tile_columns, tiles, count, operands, stream);
  };
  switch (product) {
    case ProductKind::kPast:
      return launch(ByColumns<ProductKind::kPast>);
    case ProductKind::kRight:
      return launch(ByColumns<ProductKind::kRight>);
    case ProductKind::kRightOut:
      return launch(ByColumns<ProductKind::kRightOut>);
    case ProductKind::kInverseLeft:
      return launch(ByColumns<ProductKind::kInverseLeft>);
    case ProductKind::kInverse:
      return launch(ByColumns<ProductKind::kInverse>);
    case ProductKind::kUpdate:
      return launch(ByColumns<ProductKind::kUpdate>);
    case ProductKind::kLeaf:
      return launch(ByColumns<ProductKind::kLeaf>);
  }
  return cudaErrorInvalidValue;
}

}  // namespace sessa::cuda
