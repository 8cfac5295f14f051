// W_in: [a, g] = n W_in^T + b; abar = GELU(a) in bf16, g in float32.
#include "kernels/cuda/prefill_gelu.cuh"
#include "kernels/cuda/prefill_linear.cuh"

namespace sessa::cuda {
struct InOutput {
  static constexpr int kParts = 2;  // a and g
  InEpilogueParams p;

  template <int kColumns>
  struct Epilogue {
    TileBias<kColumns> bias;
    bool valid[2];           // of the thread's rows
    __nv_bfloat16* abar[2];  // of the row, where the thread's eight columns of groups 0 to 3 lie
    float* g[2];             // of the row, where its two columns of group 0 lie
    int columns;             // of a part that the tile has
  };

  template <int kColumns>
  __device__ Epilogue<kColumns> Begin(const LinearTile& tile, int row, int rows) const {
    constexpr int kPart = kColumns / 2;
    Epilogue<kColumns> epilogue;
    const int mine = threadIdx.x % kPart;
    epilogue.bias.Fetch(p.bias + (threadIdx.x < kPart ? 0 : p.width), tile.column + mine, p.width);
    epilogue.columns = p.width - tile.column;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int64_t at = row + 8 * half;
      epilogue.valid[half] = at < rows;
      epilogue.abar[half] =
          static_cast<__nv_bfloat16*>(p.abar) + at * p.pitch + tile.column + 4 * PairColumn();
      epilogue.g[half] = p.g + at * p.width + tile.column + PairColumn();
    }
    return epilogue;
  }

  template <int kColumns>
  __device__ void Finish(const LinearTile&, const Epilogue<kColumns>& epilogue,
                         float (&acc)[kColumns / 2]) const {
    constexpr int kGroups = kColumns / 16;  // of a part
    epilogue.bias.Publish();
#pragma unroll
    for (int j0 = 0; j0 < kGroups; j0 += 4) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        uint32_t packed[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
          const int j = j0 + k, a = 4 * j + 2 * half, g = a + 4 * kGroups;
          const float2 bias = epilogue.bias.Pair(j), gate_bias = epilogue.bias.Pair(j + kGroups);
          packed[k] = PackBf16(FastGelu(acc[a] + bias.x), FastGelu(acc[a + 1] + bias.y));
          if (epilogue.valid[half] && 8 * j < epilogue.columns) {
            *reinterpret_cast<float2*>(epilogue.g[half] + 8 * j) =
                make_float2(acc[g] + gate_bias.x, acc[g + 1] + gate_bias.y);
          }
        }
        QuadTranspose(packed);
        if (epilogue.valid[half] && 8 * j0 + 4 * PairColumn() < epilogue.columns) {
          *reinterpret_cast<uint4*>(epilogue.abar[half] + 8 * j0) =
              make_uint4(packed[0], packed[1], packed[2], packed[3]);
        }
      }
    }
    epilogue.bias.Release();
  }
};

cudaError_t LaunchPrefillLinear(const PrefillLinear& linear, const InEpilogueParams& output,
                                cudaStream_t stream) {
  return LaunchLinear<InOutput, 256>(linear, InOutput{output}, stream);
}

}  // namespace sessa::cuda
