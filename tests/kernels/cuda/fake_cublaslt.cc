// The part of fake_cuda.h that stands in for cuBLASLt: every product succeeds and writes nothing.
#include <cublasLt.h>

#define SUCCEEDS(name, ...) \
  cublasStatus_t name(__VA_ARGS__) { return CUBLAS_STATUS_SUCCESS; }

extern "C" {

SUCCEEDS(cublasLtCreate, cublasLtHandle_t*)
SUCCEEDS(cublasLtDestroy, cublasLtHandle_t)
SUCCEEDS(cublasLtMatmulDescCreate, cublasLtMatmulDesc_t*, cublasComputeType_t, cudaDataType_t)
SUCCEEDS(cublasLtMatmulDescDestroy, cublasLtMatmulDesc_t)
SUCCEEDS(cublasLtMatmulDescSetAttribute, cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void*,
         size_t)
SUCCEEDS(cublasLtMatmulPreferenceCreate, cublasLtMatmulPreference_t*)
SUCCEEDS(cublasLtMatmulPreferenceDestroy, cublasLtMatmulPreference_t)
SUCCEEDS(cublasLtMatmulPreferenceSetAttribute, cublasLtMatmulPreference_t,
         cublasLtMatmulPreferenceAttributes_t, const void*, size_t)
SUCCEEDS(cublasLtMatrixLayoutCreate, cublasLtMatrixLayout_t*, cudaDataType, uint64_t, uint64_t, int64_t)
SUCCEEDS(cublasLtMatrixLayoutDestroy, cublasLtMatrixLayout_t)
SUCCEEDS(cublasLtMatmul, cublasLtHandle_t, cublasLtMatmulDesc_t, const void*, const void*,
         cublasLtMatrixLayout_t, const void*, cublasLtMatrixLayout_t, const void*, const void*,
         cublasLtMatrixLayout_t, void*, cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t*, void*, size_t,
         cudaStream_t)

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                                              cublasLtMatmulHeuristicResult_t*, int* found) {
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

const char* cublasLtGetStatusString(cublasStatus_t) { return "a status of the stand-in"; }

}  // extern "C"
