#include "kernels/cuda/state_slab.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/fill_random.h"
#include "kernels/half.h"

namespace sessa::cuda {
namespace {

// Left alone by AvailableBytes: graphs, cuBLASLt's kernels, the driver's own needs, and other programs'
// peaks.
constexpr int64_t kReserveBytes = int64_t{2} << 30;

}  // namespace

int64_t StateSlab::AvailableBytes() {
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
  const int64_t reserve = std::min<int64_t>(kReserveBytes, static_cast<int64_t>(total) / 10);
  return std::max<int64_t>(0, static_cast<int64_t>(free) - reserve);
}

absl::Status StateSlab::Allocate(int32_t pages, int32_t open_pages, cudaStream_t stream) {
  if (memory_.bytes() != 0) return absl::FailedPreconditionError("state memory is allocated already");
  if (pages < 1 || open_pages < 0) return absl::InvalidArgumentError("state memory without pages");
  const int64_t bytes = (int64_t{pages} + 1) * layout_.page_bytes();
  const int64_t open_bytes = (int64_t{open_pages} + 1) * layout_.open_page_bytes();
  const auto explain = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(status.message(), "; needed are ", bytes, " bytes for ",
                                                    pages, " state pages and one of scratch, and ",
                                                    open_bytes, " for ", open_pages, " open pages and one"));
  };
  absl::StatusOr<DeviceBuffer> memory = AllocateDeviceUntouched(bytes, "state pages");
  if (!memory.ok()) return explain(memory.status());
  absl::StatusOr<DeviceBuffer> open_memory = AllocateDeviceUntouched(open_bytes, "open state pages");
  if (!open_memory.ok()) return explain(open_memory.status());
  memory_ = std::move(*memory);
  open_memory_ = std::move(*open_memory);
  pages_ = pages;
  open_pages_ = open_pages;
  // Scratch pages are read back by the rows that wrote them: they must hold numbers.
  absl::Status status =
      ToStatus(cudaMemsetAsync(memory_.as() + pages * layout_.page_bytes(), 0, layout_.page_bytes(), stream),
               "state pages");
  if (status.ok() && layout_.has_open_pages()) {
    status = ToStatus(cudaMemsetAsync(open_memory_.as() + open_pages * layout_.open_page_bytes(), 0,
                                      layout_.open_page_bytes(), stream),
                      "open state pages");
  }
  return status;
}

cudaError_t StateSlab::CopyPage(PageId from, PageId to, cudaStream_t stream) {
  const int64_t bytes = layout_.page_bytes();
  return cudaMemcpyAsync(memory_.as() + to * bytes, memory_.as() + from * bytes, bytes,
                         cudaMemcpyDeviceToDevice, stream);
}

cudaError_t StateSlab::CopyOpenPage(PageId from, PageId to, cudaStream_t stream) {
  const int64_t bytes = layout_.open_page_bytes();
  return cudaMemcpyAsync(open_memory_.as() + to * bytes, open_memory_.as() + from * bytes, bytes,
                         cudaMemcpyDeviceToDevice, stream);
}

absl::Status StateSlab::Read(PageId page, int32_t layer, Plane plane, int32_t first_row, int32_t rows,
                             float* out) const {
  if (page < 0 || page >= pages_ || layer < 0 || layer >= layout_.shape.layers || first_row < 0 || rows < 0 ||
      first_row + rows > kPageTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("no rows ", first_row, " + ", rows, " of page ", page, ", layer ", layer));
  }
  const int64_t row_bytes = layout_.PlaneWidth(plane) * layout_.number_bytes();
  std::vector<char> raw(rows * row_bytes);
  const char* from =
      memory_.as() + page * layout_.page_bytes() + layout_.PlaneOffset(layer, plane) + first_row * row_bytes;
  absl::Status status =
      ToStatus(cudaMemcpy(raw.data(), from, raw.size(), cudaMemcpyDeviceToHost), "reading state");
  if (!status.ok()) return status;
  const DType dtype = layout_.PlaneDtype(plane);
  for (int64_t i = 0; i < int64_t{rows} * layout_.PlaneWidth(plane); ++i) {
    if (dtype == DType::kF32) {
      out[i] = reinterpret_cast<const float*>(raw.data())[i];
    } else {
      const uint16_t bits = reinterpret_cast<const uint16_t*>(raw.data())[i];
      out[i] = dtype == DType::kBF16 ? BF16ToFloat(bits) : FP16ToFloat(bits);
    }
  }
  return absl::OkStatus();
}

cudaError_t StateSlab::Fill(uint32_t seed, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  for (int32_t layer = 0; layer < layout_.shape.layers; ++layer) {
    for (Plane plane : {Plane::kK, Plane::kV, Plane::kKb, Plane::kS}) {
      if (error != cudaSuccess) return error;
      const uint64_t stream_seed = (uint64_t{seed} << 32) + layer * 4 + static_cast<int>(plane);
      error = FillRandom(memory_.as() + layout_.PlaneOffset(layer, plane), layout_.PlaneDtype(plane),
                         int64_t{kPageTokens} * layout_.PlaneWidth(plane), layout_.page_bytes(), pages_,
                         stream_seed, stream);
    }
  }
  if (error != cudaSuccess || !layout_.has_open_pages()) return error;
  return FillRandom(open_memory_.as(), DType::kF32, layout_.open_page_bytes() / 4, layout_.open_page_bytes(),
                    open_pages_, ~uint64_t{seed}, stream);
}

LayerState StateSlab::Layer(int32_t layer) const {
  LayerState state;
  state.pages = memory_.as();
  state.open_pages = open_memory_.as();
  state.page_bytes = layout_.page_bytes();
  state.open_page_bytes = layout_.open_page_bytes();
  state.k = layout_.PlaneOffset(layer, Plane::kK);
  state.v = layout_.PlaneOffset(layer, Plane::kV);
  state.kb = layout_.PlaneOffset(layer, Plane::kKb);
  state.s = layout_.PlaneOffset(layer, Plane::kS);
  state.open_s = layout_.OpenOffset(layer);
  state.width = layout_.shape.width;
  state.kv = layout_.shape.kv_width();
  state.f32 = layout_.dtype == StateDtype::kF32 ? 1 : 0;
  return state;
}

}  // namespace sessa::cuda
