#include "kernels/host_state.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "kernels/host_memory.h"

namespace sessa {
namespace {

std::byte* MapLazily(int64_t bytes) {
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

}  // namespace

HostState::~HostState() {
  if (slab_ != nullptr) munmap(slab_, pages_ * layout_.page_bytes());
  if (open_slab_ != nullptr) munmap(open_slab_, open_pages_ * layout_.open_page_bytes());
}

int64_t HostState::AvailableBytes() const { return FreeHostMemory(memory_root_).value_or(0) / 2; }

absl::Status HostState::Allocate(int32_t pages, int32_t open_pages) {
  if (slab_ != nullptr) return absl::FailedPreconditionError("state memory is already allocated");
  const bool open_expected = layout_.has_open_pages();
  if (pages <= 0 || open_pages < 0 || (open_expected && open_pages == 0)) {
    return absl::InvalidArgumentError(absl::StrCat("state memory of ", pages, " pages and ", open_pages,
                                                   " open pages: at least one of each kind is needed"));
  }
  if (!open_expected) open_pages = 0;
  const int64_t bytes = pages * layout_.page_bytes();
  const int64_t open_bytes = open_pages * layout_.open_page_bytes();
  const std::optional<int64_t> available = FreeHostMemory(memory_root_);
  if (available && bytes + open_bytes > *available) {
    return absl::ResourceExhaustedError(
        absl::StrCat("state memory: ", bytes + open_bytes, " bytes asked for ", pages, " pages, ", *available,
                     " bytes of memory are free; one page needs ", layout_.page_bytes(), " bytes"));
  }
  slab_ = MapLazily(bytes);
  if (slab_ != nullptr && open_pages > 0) open_slab_ = MapLazily(open_bytes);
  if (slab_ == nullptr || (open_pages > 0 && open_slab_ == nullptr)) {
    const int error = errno;
    if (slab_ != nullptr) munmap(slab_, bytes);
    slab_ = nullptr;
    return absl::ResourceExhaustedError(
        absl::StrCat("state memory: cannot reserve ", bytes + open_bytes, " bytes: ", std::strerror(error)));
  }
  pages_ = pages;
  open_pages_ = open_pages;
  return absl::OkStatus();
}

void HostState::CopyPage(PageId from, PageId to) {
  std::memcpy(Row(to, 0, Plane::kK), Row(from, 0, Plane::kK), layout_.page_bytes());
}

void HostState::CopyOpenPage(PageId from, PageId to) {
  std::memcpy(OpenRow(to, 0), OpenRow(from, 0), layout_.open_page_bytes());
}

void HostState::FillRandom(uint32_t seed) {
  uint64_t draw = seed;
  const auto next = [&draw] {  // a linear congruential generator: quality is not the point, speed is
    draw = draw * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(static_cast<int32_t>(draw >> 32)) * 0x1p-31f;
  };
  constexpr Plane kPlanes[] = {Plane::kK, Plane::kV, Plane::kKb, Plane::kS};
  for (PageId page = 0; page < pages_; ++page) {
    for (int32_t layer = 0; layer < layout_.shape.layers; ++layer) {
      for (Plane plane : kPlanes) {
        const int64_t numbers = int64_t{kPageTokens} * layout_.PlaneWidth(plane);
        for (int64_t i = 0; i < numbers; ++i) {
          if (layout_.dtype == StateDtype::kF32) {
            FloatRow(page, layer, plane)[i] = next();
          } else {
            HalfRow(page, layer, plane)[i] = plane == Plane::kS ? FloatToFP16(next()) : FloatToBF16(next());
          }
        }
      }
    }
  }
  const int64_t open_numbers = open_pages_ * layout_.open_page_bytes() / 4;
  for (int64_t i = 0; i < open_numbers; ++i) reinterpret_cast<float*>(open_slab_)[i] = next();
}

absl::Status HostState::Read(PageId page, int32_t layer, Plane plane, int32_t first_row, int32_t rows,
                             float* out) const {
  if (page < 0 || page >= pages_ || layer < 0 || layer >= layout_.shape.layers || first_row < 0 || rows < 0 ||
      first_row + rows > kPageTokens) {
    return absl::InvalidArgumentError(absl::StrCat("no rows ", first_row, " to ", first_row + rows,
                                                   " of layer ", layer, " in page ", page));
  }
  const int64_t numbers = int64_t{rows} * layout_.PlaneWidth(plane);
  if (layout_.dtype == StateDtype::kF32) {
    std::memcpy(out, FloatRow(page, layer, plane, first_row), numbers * sizeof(float));
    return absl::OkStatus();
  }
  const uint16_t* in = HalfRow(page, layer, plane, first_row);
  const bool fp16 = plane == Plane::kS;
  for (int64_t i = 0; i < numbers; ++i) out[i] = fp16 ? FP16ToFloat(in[i]) : BF16ToFloat(in[i]);
  return absl::OkStatus();
}

}  // namespace sessa
