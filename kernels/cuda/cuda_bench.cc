// What only benches need of the backend: random state, and the rates of the card.
#include <algorithm>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/fill_random.h"

namespace sessa::cuda {
namespace {

constexpr int64_t kCopyBytes = int64_t{512} << 20;  // many times the L2 cache
constexpr int32_t kGemmSize = 8192;
constexpr int kRepeats = 6;

// Seconds of the fastest of some runs of `work` on the stream; 0 on an error.
template <typename Work>
double FastestSeconds(cudaStream_t stream, const Work& work) {
  cudaEvent_t begin = nullptr, end = nullptr;
  if (cudaEventCreate(&begin) != cudaSuccess || cudaEventCreate(&end) != cudaSuccess) return 0;
  float best = 0;
  for (int i = 0; i < kRepeats; ++i) {
    float milliseconds = 0;
    const bool ok = cudaEventRecord(begin, stream) == cudaSuccess && work() &&
                    cudaEventRecord(end, stream) == cudaSuccess && cudaEventSynchronize(end) == cudaSuccess &&
                    cudaEventElapsedTime(&milliseconds, begin, end) == cudaSuccess;
    if (!ok) best = 0;
    if (!ok) break;
    if (i > 0) best = best == 0 ? milliseconds : std::min(best, milliseconds);  // the first one loads kernels
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return best * 1e-3;
}

double CopyRate(cudaStream_t stream) {
  absl::StatusOr<DeviceBuffer> from = AllocateDevice(kCopyBytes, "a copy"),
                               to = AllocateDevice(kCopyBytes, "a copy");
  if (!from.ok() || !to.ok()) return 0;
  if (FillRandom(from->as(), DType::kF32, kCopyBytes / 4, 0, 1, 1, stream) != cudaSuccess) return 0;
  const double seconds = FastestSeconds(stream, [&] {
    return cudaMemcpyAsync(to->as(), from->as(), kCopyBytes, cudaMemcpyDeviceToDevice, stream) == cudaSuccess;
  });
  return seconds > 0 ? 2.0 * kCopyBytes / seconds : 0;
}

double GemmRate(LtGemm* lt, cudaStream_t stream) {
  constexpr int64_t kNumbers = int64_t{kGemmSize} * kGemmSize;
  absl::StatusOr<DeviceBuffer> w = AllocateDevice(2 * kNumbers, "a product"),
                               x = AllocateDevice(2 * kNumbers, "a product"),
                               y = AllocateDevice(4 * kNumbers, "a product");
  if (!w.ok() || !x.ok() || !y.ok()) return 0;
  if (FillRandom(w->as(), DType::kBF16, kNumbers, 0, 1, 2, stream) != cudaSuccess) return 0;
  if (FillRandom(x->as(), DType::kBF16, kNumbers, 0, 1, 3, stream) != cudaSuccess) return 0;
  LtGemm::Operands operands;
  operands.weight = w->as();
  operands.x = x->as();
  operands.y = y->as<float>();
  operands.rows = operands.outputs = operands.inputs = operands.pitch = kGemmSize;
  const double seconds = FastestSeconds(stream, [&] { return lt->Run(operands, stream).ok(); });
  return seconds > 0 ? 2.0 * kGemmSize * kGemmSize * kGemmSize / seconds : 0;
}

}  // namespace

DeviceRates CudaOps::MeasureRates() {
  TakeDevice();
  if (!status_.ok()) return {};
  return {CopyRate(stream_), GemmRate(lt_.get(), stream_)};
}

void CudaOps::FillState(uint32_t seed) {
  TakeDevice();
  Check(slab_.Fill(seed, stream_), "filling state");
}

}  // namespace sessa::cuda
