// Where the numbers of a session's state lie inside pages. One layout for every backend.
#pragma once

#include <cstdint>

#include "kernels/model_shape.h"

namespace sessa {

// Tokens of a state page. Pages are aligned to absolute position: page i of a session holds [64 i, 64 i + 64).
inline constexpr int32_t kPageTokens = 64;

// kF32: every plane in float32. kCompact: k, v, kb in bf16, s in fp16, and beside it a float32 copy of s for
// the block of 64 tokens that is still being filled (the "open" page).
enum class StateDtype { kF32, kCompact };

// The four planes of a layer's state, in the order in which they lie in a page.
enum class Plane { kK, kV, kKb, kS };

// A page holds, for layer 0, then layer 1 and so on: 64 rows of k (kv numbers each, after RoPE), 64 rows of v
// (kv), 64 rows of kb (D), 64 rows of s (D). An open page holds for each layer 64 rows of s (D) in float32.
struct StateLayout {
  ModelShape shape;
  StateDtype dtype = StateDtype::kF32;

  DType PlaneDtype(Plane plane) const {
    if (dtype == StateDtype::kF32) return DType::kF32;
    return plane == Plane::kS ? DType::kF16 : DType::kBF16;
  }
  int32_t PlaneWidth(Plane plane) const {  // numbers a token
    return plane == Plane::kK || plane == Plane::kV ? shape.kv_width() : shape.width;
  }
  int64_t number_bytes() const { return dtype == StateDtype::kF32 ? 4 : 2; }
  int64_t layer_bytes() const {  // of one layer in one page
    return kPageTokens * number_bytes() * (2 * int64_t{shape.kv_width()} + 2 * int64_t{shape.width});
  }
  int64_t page_bytes() const { return layer_bytes() * shape.layers; }
  int64_t token_bytes() const { return page_bytes() / kPageTokens; }  // of closed pages, all layers
  // Byte offset of a plane's row 0 from the start of its page.
  int64_t PlaneOffset(int32_t layer, Plane plane) const {
    const int64_t kv = kPageTokens * number_bytes() * shape.kv_width();
    const int64_t d = kPageTokens * number_bytes() * shape.width;
    const int64_t in_layer[] = {0, kv, 2 * kv, 2 * kv + d};
    return layer * layer_bytes() + in_layer[static_cast<int>(plane)];
  }

  bool has_open_pages() const { return dtype == StateDtype::kCompact; }
  int64_t open_page_bytes() const {
    return has_open_pages() ? int64_t{kPageTokens} * shape.width * 4 * shape.layers : 0;
  }
  int64_t OpenOffset(int32_t layer) const { return int64_t{layer} * kPageTokens * shape.width * 4; }
};

}  // namespace sessa
