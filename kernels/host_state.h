// State pages in host memory, shared by the reference and the CPU backend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "kernels/half.h"
#include "kernels/ops.h"
#include "kernels/state_layout.h"

namespace sessa {

// Two slabs, one of state pages and one of open pages. Memory is reserved at Allocate and becomes resident
// page by page when it is first written. Rows may be read and written by several threads as long as they are
// not the same.
class HostState {
 public:
  // `memory_root`: as FreeHostMemory's root.
  explicit HostState(const StateLayout& layout, std::string memory_root = "")
      : layout_(layout), memory_root_(std::move(memory_root)) {}
  ~HostState();
  HostState(const HostState&) = delete;
  HostState& operator=(const HostState&) = delete;

  const StateLayout& layout() const { return layout_; }
  int32_t pages() const { return pages_; }
  int32_t open_pages() const { return open_pages_; }

  // Half of the memory that the machine, or this process's control group, has left; 0 when that is unknown.
  int64_t AvailableBytes() const;
  // As Ops::AllocateState: once. RESOURCE_EXHAUSTED for more than the machine or the control group has left.
  absl::Status Allocate(int32_t pages, int32_t open_pages);

  // First byte of row `row` (0..63) of a plane; rows of a plane are contiguous, PlaneWidth numbers each.
  std::byte* Row(PageId page, int32_t layer, Plane plane, int32_t row = 0) const {
    return slab_ + page * layout_.page_bytes() + layout_.PlaneOffset(layer, plane) +
           int64_t{row} * layout_.PlaneWidth(plane) * layout_.number_bytes();
  }
  float* FloatRow(PageId page, int32_t layer, Plane plane, int32_t row = 0) const {  // float32 state
    return reinterpret_cast<float*>(Row(page, layer, plane, row));
  }
  uint16_t* HalfRow(PageId page, int32_t layer, Plane plane, int32_t row = 0) const {  // compact state
    return reinterpret_cast<uint16_t*>(Row(page, layer, plane, row));
  }
  // Float32 s of row `row` of an open page, (D).
  float* OpenRow(PageId open_page, int32_t layer, int32_t row = 0) const {
    return reinterpret_cast<float*>(open_slab_ + open_page * layout_.open_page_bytes() +
                                    layout_.OpenOffset(layer)) +
           int64_t{row} * layout_.shape.width;
  }

  void CopyPage(PageId from, PageId to);
  void CopyOpenPage(PageId from, PageId to);
  // As Ops::FillState.
  void FillRandom(uint32_t seed);
  // As Ops::ReadState.
  absl::Status Read(PageId page, int32_t layer, Plane plane, int32_t first_row, int32_t rows,
                    float* out) const;

 private:
  const StateLayout layout_;
  const std::string memory_root_;
  std::byte* slab_ = nullptr;
  std::byte* open_slab_ = nullptr;
  int32_t pages_ = 0;
  int32_t open_pages_ = 0;
};

}  // namespace sessa
