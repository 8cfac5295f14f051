#include "kernels/cuda/prefill_maps.h"

#include "kernels/state_layout.h"

namespace sessa::cuda {
namespace {

using EncodeFn = decltype(&cuTensorMapEncodeTiled);

// The driver's encoder, found at run time: the plugin does not link the driver library.
EncodeFn Encoder() {
  static const EncodeFn encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                               cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeFn>(function)
                                                                        : nullptr;
  }();
  return encoder;
}

cudaError_t Encode(CUtensorMap* map, const void* base, int rank, const cuuint64_t* sizes,
                   const cuuint64_t* strides, const cuuint32_t* box) {
  const cuuint32_t ones[] = {1, 1, 1};
  if (Encoder() == nullptr) return cudaErrorNotSupported;
  // The type only sets the element size: bf16 and fp16 alike.
  const CUresult result =
      Encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, rank, const_cast<void*>(base), sizes, strides, box,
                ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace

cudaError_t MakeMatrixMap(CUtensorMap* map, const void* base, int64_t rows, int64_t columns,
                          int64_t row_bytes, int box_rows) {
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(row_bytes)};
  const cuuint32_t box[] = {64, static_cast<cuuint32_t>(box_rows)};
  return Encode(map, base, 2, sizes, strides, box);
}

cudaError_t MakePageMap(CUtensorMap* map, const void* plane_of_page_0, int64_t pages, int64_t columns,
                        int64_t page_bytes) {
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), kPageTokens, static_cast<cuuint64_t>(pages)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(columns * 2), static_cast<cuuint64_t>(page_bytes)};
  const cuuint32_t box[] = {64, kPageTokens, 1};
  return Encode(map, plane_of_page_0, 3, sizes, strides, box);
}

}  // namespace sessa::cuda
