// The projections: [q|k|v|qb|kb|gamma] = abar W^T + b; RoPE on q and k; q, qb in bf16 for the attention
// kernels; k, v, kb in bf16 to the pages; gamma = gamma_max tanh(.).
#include "kernels/cuda/prefill_linear.cuh"

namespace sessa::cuda {
struct ProjectOutput {
  static constexpr int kParts = 1;
  ProjectEpilogueParams p;
  int outputs;

  // Where output 0 of a row would lie if its part went on to there, for each part.
  struct Places {
    __nv_bfloat16 *q, *k, *v, *qb, *kb;
  };

  // Of the thread's rows; where there is no such row, of the last one.
  template <int kColumns>
  struct Epilogue {
    TileBias<kColumns> bias;
    bool valid[2];
    Places to[2];
    const float2* turn[2];  // the angles of the row's position
    float* gamma[2];
  };

  __device__ Places RowPlaces(int row) const {
    const int d = p.state.width, kv = p.state.kv;
    const RowMeta meta = p.rows[row];
    const int64_t page = p.pages[meta.page_begin + meta.position / kPageTokens];
    const int in_page = meta.position % kPageTokens;
    char* base = p.state.pages + page * p.state.page_bytes;
    const auto plane = [&](int64_t offset, int width, int first) {
      return reinterpret_cast<__nv_bfloat16*>(base + offset) + in_page * width - first;
    };
    Places to;
    to.q = static_cast<__nv_bfloat16*>(p.q_bf16) + static_cast<int64_t>(row) * d;
    to.k = plane(p.state.k, kv, d);
    to.v = plane(p.state.v, kv, d + kv);
    to.qb = static_cast<__nv_bfloat16*>(p.qb_bf16) + static_cast<int64_t>(row) * d - (d + 2 * kv);
    to.kb = plane(p.state.kb, d, 2 * d + 2 * kv);
    return to;
  }

  template <int kColumns>
  __device__ Epilogue<kColumns> Begin(const LinearTile& tile, int row, int rows) const {
    Epilogue<kColumns> epilogue;
    epilogue.bias.Fetch(p.bias, tile.column + threadIdx.x, outputs);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int at = min(row + 8 * half, rows - 1);
      epilogue.valid[half] = row + 8 * half < rows;
      epilogue.to[half] = RowPlaces(at);
      epilogue.turn[half] = p.rotation + static_cast<int64_t>(at) * (p.head_width / 2);
      epilogue.gamma[half] = p.gamma + at;
    }
    return epilogue;
  }

  // Where output n goes; null: nowhere (gamma and what lies behind it).
  __device__ __nv_bfloat16* Place(const Places& to, int n) const {
    const int d = p.state.width, kv = p.state.kv;
    __nv_bfloat16* place = n < d ? to.q : to.k;
    place = n >= d + kv ? to.v : place;
    place = n >= d + 2 * kv ? to.qb : place;
    place = n >= 2 * d + 2 * kv ? to.kb : place;
    return n < 3 * d + 2 * kv ? place + n : nullptr;
  }

  // Turns pairs of columns by their position's angles: groups j0 to j0 + 3 of a row, those before `columns`.
  __device__ void Rotate(float2 (&y)[4], const float2* turns, int j0, int in_head, int columns) const {
    float2 turn[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      turn[k] = make_float2(1, 0);
      if (8 * (j0 + k) < columns) turn[k] = turns[in_head / 2];
      in_head += 8;  // head widths are multiples of 8
      if (in_head >= p.head_width) in_head -= p.head_width;
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
      y[k] = make_float2(y[k].x * turn[k].x - y[k].y * turn[k].y, y[k].x * turn[k].y + y[k].y * turn[k].x);
    }
  }

  template <int kColumns>
  __device__ void StoreGamma(const LinearTile& tile, const Epilogue<kColumns>& epilogue,
                             const float (&acc)[kColumns / 2]) const {
    const int column = outputs - 1 - tile.column;  // a multiple of 8
    if (column >= kColumns || PairColumn() != 0) return;
    float y[2] = {};
#pragma unroll
    for (int j = 0; j < kColumns / 8; j++) {
#pragma unroll
      for (int half = 0; half < 2; half++) y[half] = 8 * j == column ? acc[4 * j + 2 * half] : y[half];
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (epilogue.valid[half]) {
        *epilogue.gamma[half] = p.gamma_max * tanhf(y[half] + epilogue.bias.Shared()[column]);
      }
    }
  }

  template <int kColumns>
  __device__ void Finish(const LinearTile& tile, const Epilogue<kColumns>& epilogue,
                         float (&acc)[kColumns / 2]) const {
    const int rotated = p.rotation == nullptr ? 0 : p.state.width + p.state.kv - tile.column;
    int in_head = (tile.column + PairColumn()) % p.head_width;
    epilogue.bias.Publish();
#pragma unroll
    for (int j0 = 0; j0 < kColumns / 8; j0 += 4) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float2 y[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
          const float2 bias = epilogue.bias.Pair(j0 + k);
          const int at = 4 * (j0 + k) + 2 * half;
          y[k] = make_float2(acc[at] + bias.x, acc[at + 1] + bias.y);
        }
        if (8 * j0 < rotated) Rotate(y, epilogue.turn[half], j0, in_head, rotated);
        uint32_t packed[4];
#pragma unroll
        for (int k = 0; k < 4; k++) packed[k] = PackBf16(y[k].x, y[k].y);
        QuadTranspose(packed);
        __nv_bfloat16* to = Place(epilogue.to[half], tile.column + 8 * j0 + 4 * PairColumn());
        if (epilogue.valid[half] && to != nullptr) {
          *reinterpret_cast<uint4*>(to) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
        }
      }
      in_head = (in_head + 32) % p.head_width;
    }
    StoreGamma<kColumns>(tile, epilogue, acc);
    epilogue.bias.Release();
  }
};

cudaError_t LaunchPrefillLinear(const PrefillLinear& linear, const ProjectEpilogueParams& output,
                                cudaStream_t stream) {
  return LaunchLinear<ProjectOutput, 256>(linear, ProjectOutput{output, linear.outputs}, stream);
}

}  // namespace sessa::cuda
