// The state pages of all sessions in device memory: one slab of pages and one of open pages, each with a
// scratch page behind the last that padded rows write to.
#pragma once

#include "absl/status/status.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/device_types.h"
#include "kernels/ops.h"

namespace sessa::cuda {

// One thread at a time.
class StateSlab {
 public:
  explicit StateSlab(const StateLayout& layout) : layout_(layout) {}

  const StateLayout& layout() const { return layout_; }
  PageId scratch_page() const { return pages_; }
  PageId scratch_open_page() const { return layout_.has_open_pages() ? open_pages_ : -1; }
  void* pages() const { return memory_.as(); }
  void* open_pages() const { return open_memory_.as(); }
  int32_t page_count() const { return pages_ + 1; }  // scratch included

  static int64_t AvailableBytes();
  absl::Status Allocate(int32_t pages, int32_t open_pages, cudaStream_t stream);
  cudaError_t CopyPage(PageId from, PageId to, cudaStream_t stream);
  cudaError_t CopyOpenPage(PageId from, PageId to, cudaStream_t stream);
  // As Ops::ReadState; the stream must be idle.
  absl::Status Read(PageId page, int32_t layer, Plane plane, int32_t first_row, int32_t rows,
                    float* out) const;

  // Random state in all pages, in [-1, 1).
  cudaError_t Fill(uint32_t seed, cudaStream_t stream);

  LayerState Layer(int32_t layer) const;

 private:
  const StateLayout layout_;
  DeviceBuffer memory_, open_memory_;
  int32_t pages_ = 0, open_pages_ = 0;
};

}  // namespace sessa::cuda
