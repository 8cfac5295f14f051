// Tensor maps: how the bulk tensor copies address a matrix or a plane of the state pages.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace sessa::cuda {

// A row-major matrix of two-byte numbers, copied in boxes of 64 columns x box_rows in the 128-byte swizzle.
// What lies outside (any side) reads as zero. base: 16-byte aligned; row_bytes: a multiple of 16.
cudaError_t MakeMatrixMap(CUtensorMap* map, const void* base, int64_t rows, int64_t columns,
                          int64_t row_bytes, int box_rows);

// A plane of a layer in the pages: coordinates (column, row of the page, page); boxes of 64 columns x 64
// rows.
cudaError_t MakePageMap(CUtensorMap* map, const void* plane_of_page_0, int64_t pages, int64_t columns,
                        int64_t page_bytes);

}  // namespace sessa::cuda
