// W_out: x += u W_out^T + b; and, where the solve does not make f itself, W_o: f = o W_o^T.
#include "kernels/cuda/prefill_linear.cuh"

namespace sessa::cuda {
// Float32 rows of `to`; kAdd: added to what is there, with a bias.
template <bool kAdd>
struct FloatOutput {
  static constexpr int kParts = 1;
  float* to;
  const float* bias;
  int64_t pitch;
  int outputs;

  template <int kColumns>
  struct Epilogue {
    TileBias<kColumns> bias;
    bool valid[2];  // of the thread's rows
    float* row[2];  // where its two columns of group 0 lie
    int columns;    // that the tile has
    float2 old[2][kAdd ? kColumns / 8 : 1];
  };

  template <int kColumns>
  __device__ Epilogue<kColumns> Begin(const LinearTile& tile, int row, int rows) const {
    Epilogue<kColumns> epilogue;
    if constexpr (kAdd) epilogue.bias.Fetch(bias, tile.column + threadIdx.x, outputs);
    epilogue.columns = outputs - tile.column;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      epilogue.valid[half] = row + 8 * half < rows;
      epilogue.row[half] = to + (row + 8 * half) * pitch + tile.column + PairColumn();
      if constexpr (kAdd) {
#pragma unroll
        for (int j = 0; j < kColumns / 8; j++) {
          epilogue.old[half][j] = make_float2(0, 0);
          if (epilogue.valid[half] && 8 * j < epilogue.columns) {
            epilogue.old[half][j] = *reinterpret_cast<const float2*>(epilogue.row[half] + 8 * j);
          }
        }
      }
    }
    return epilogue;
  }

  template <int kColumns>
  __device__ void Finish(const LinearTile&, const Epilogue<kColumns>& epilogue,
                         float (&acc)[kColumns / 2]) const {
    if constexpr (kAdd) epilogue.bias.Publish();
#pragma unroll
    for (int j = 0; j < kColumns / 8; j++) {
      float2 more = make_float2(0, 0);
      if constexpr (kAdd) more = epilogue.bias.Pair(j);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float2 y = make_float2(acc[4 * j + 2 * half] + more.x, acc[4 * j + 2 * half + 1] + more.y);
        if constexpr (kAdd) {
          y.x += epilogue.old[half][j].x;
          y.y += epilogue.old[half][j].y;
        }
        if (epilogue.valid[half] && 8 * j < epilogue.columns) {
          *reinterpret_cast<float2*>(epilogue.row[half] + 8 * j) = y;
        }
      }
    }
    if constexpr (kAdd) epilogue.bias.Release();
  }
};

cudaError_t LaunchPrefillLinear(const PrefillLinear& linear, const ResidualEpilogueParams& output,
                                cudaStream_t stream) {
  const FloatOutput<true> to{output.x, output.bias, output.width, linear.outputs};
  return LaunchLinear<FloatOutput<true>, 128>(linear, to, stream);
}

cudaError_t LaunchPrefillLinear(const PrefillLinear& linear, const StoreEpilogueParams& output,
                                cudaStream_t stream) {
  const FloatOutput<false> to{output.out, nullptr, output.pitch, linear.outputs};
  return LaunchLinear<FloatOutput<false>, 128>(linear, to, stream);
}

}  // namespace sessa::cuda
