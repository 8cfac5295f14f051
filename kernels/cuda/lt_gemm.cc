#include "kernels/cuda/lt_gemm.h"

#include "absl/strings/str_cat.h"

namespace sessa::cuda {
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

absl::Status LtStatus(cublasStatus_t status, absl::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cublasLtGetStatusString(status)));
}

}  // namespace

// Row-major y = X W^T is column-major y^T = W X^T: W is read transposed, X as it lies.
struct LtGemm::Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulAlgo_t algorithm;

  ~Plan() {
    if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
    for (cublasLtMatrixLayout_t layout : {weight, x, y}) {
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    }
  }

  cublasStatus_t Describe(const Operands& o) {
    const cublasOperation_t transpose = CUBLAS_OP_T;
    cublasStatus_t status = cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                              sizeof transpose);
    }
    if (status == CUBLAS_STATUS_SUCCESS && o.bias != nullptr) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      status = cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                              sizeof epilogue);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatrixLayoutCreate(&weight, CUDA_R_16BF, o.inputs, o.outputs, o.inputs);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatrixLayoutCreate(&x, CUDA_R_16BF, o.inputs, o.rows, o.inputs);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatrixLayoutCreate(&y, CUDA_R_32F, o.outputs, o.rows, o.pitch);
    }
    return status;
  }
};

absl::StatusOr<std::unique_ptr<LtGemm>> LtGemm::Create() {
  std::unique_ptr<LtGemm> gemm(new LtGemm);
  absl::Status status = LtStatus(cublasLtCreate(&gemm->handle_), "starting cuBLASLt");
  if (!status.ok()) return status;
  absl::StatusOr<DeviceBuffer> workspace = AllocateDevice(kWorkspaceBytes, "the matrix products' workspace");
  if (!workspace.ok()) return workspace.status();
  gemm->workspace_ = std::move(*workspace);
  return gemm;
}

LtGemm::~LtGemm() {
  plans_.clear();
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

absl::StatusOr<LtGemm::Plan*> LtGemm::PlanFor(const Operands& o) {
  std::unique_ptr<Plan>& plan =
      plans_[{o.rows, o.outputs, o.inputs, o.pitch, o.bias != nullptr, o.accumulate}];
  if (plan != nullptr) return plan.get();
  auto fresh = std::make_unique<Plan>();
  cublasStatus_t status = fresh->Describe(o);
  cublasLtMatmulPreference_t preference = nullptr;
  if (status == CUBLAS_STATUS_SUCCESS) status = cublasLtMatmulPreferenceCreate(&preference);
  if (status == CUBLAS_STATUS_SUCCESS) {
    const size_t bytes = kWorkspaceBytes;
    status = cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                  &bytes, sizeof bytes);
  }
  cublasLtMatmulHeuristicResult_t best = {};
  int found = 0;
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = cublasLtMatmulAlgoGetHeuristic(handle_, fresh->operation, fresh->weight, fresh->x, fresh->y,
                                            fresh->y, preference, 1, &best, &found);
  }
  if (preference != nullptr) cublasLtMatmulPreferenceDestroy(preference);
  if (status == CUBLAS_STATUS_SUCCESS && found == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
  if (status != CUBLAS_STATUS_SUCCESS) {
    return LtStatus(status, absl::StrCat("no product of ", o.rows, " rows, ", o.outputs, " outputs, ",
                                         o.inputs, " inputs"));
  }
  fresh->algorithm = best.algo;
  plan = std::move(fresh);
  return plan.get();
}

absl::Status LtGemm::Run(const Operands& o, cudaStream_t stream) {
  absl::StatusOr<Plan*> plan = PlanFor(o);
  if (!plan.ok()) return plan.status();
  if (o.bias != nullptr) {
    const void* bias = o.bias;
    absl::Status status =
        LtStatus(cublasLtMatmulDescSetAttribute((*plan)->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                                sizeof bias),
                 "setting a bias");
    if (!status.ok()) return status;
  }
  const float one = 1.0f, add = o.accumulate ? 1.0f : 0.0f;
  return LtStatus(cublasLtMatmul(handle_, (*plan)->operation, &one, o.weight, (*plan)->weight, o.x,
                                 (*plan)->x, &add, o.y, (*plan)->y, o.y, (*plan)->y, &(*plan)->algorithm,
                                 workspace_.as(), kWorkspaceBytes, stream),
                  "matrix product");
}

}  // namespace sessa::cuda
