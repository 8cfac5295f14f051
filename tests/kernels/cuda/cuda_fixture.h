// The CUDA backend in a test: skips where there is no card, and only there.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/cuda_plugin.h"
#include "kernels/ops.h"
#include "runtime/model.h"
#include "tools/random_weights.h"

namespace sessa {

// Whether the CUDA backend starts here: UNAVAILABLE where there is no driver or no card.
inline absl::Status CudaStatus() {
  ModelShape shape;
  shape.vocab = 8;
  shape.width = 8;
  shape.layers = shape.heads = shape.kv_heads = 1;
  return LoadCudaOps(shape, RandomWeights(shape, 1).tensors(), OpsOptions()).status();
}

// A backend that does not start for any other reason is a failure: it would never be seen otherwise.
#define SKIP_WITHOUT_CUDA()                                                                           \
  if (const absl::Status why = ::sessa::CudaStatus(); why.code() == absl::StatusCode::kUnavailable) { \
    GTEST_SKIP() << "needs an NVIDIA card: " << why;                                                  \
  } else                                                                                              \
    ASSERT_EQ(why.ToString(), "OK")

inline ModelShape MakeShape(int32_t width, int32_t layers, int32_t heads, int32_t kv_heads, int32_t vocab) {
  ModelShape shape;
  shape.width = width;
  shape.layers = layers;
  shape.heads = heads;
  shape.kv_heads = kv_heads;
  shape.vocab = vocab;
  return shape;
}

inline std::unique_ptr<Ops> MakeCuda(const ModelShape& shape, const ModelTensors& tensors, OpsOptions options,
                                     int32_t pages) {
  std::unique_ptr<Ops> ops = LoadCudaOps(shape, tensors, options).value();
  const int32_t open = options.state_dtype == StateDtype::kCompact ? options.max_segments : 0;
  EXPECT_EQ(ops->AllocateState(pages, open).ToString(), "OK");
  return ops;
}

// A batch of one-row segments: row i is a token at position positions[i] of a session with pages of its own.
// All rows are sampled greedily, unless `params` has one entry a row.
inline StepBatch DecodeBatch(const std::vector<int32_t>& tokens, const std::vector<int64_t>& positions,
                             const std::vector<std::vector<PageId>>& pages,
                             const std::vector<PageId>& open_pages,
                             const std::vector<const SampleParams*>& params) {
  StepBatch batch;
  batch.tokens = tokens;
  for (size_t i = 0; i < tokens.size(); ++i) {
    Segment segment;
    segment.first_row = static_cast<int32_t>(i);
    segment.rows = 1;
    segment.start = positions[i];
    segment.page_begin = static_cast<int32_t>(batch.pages.size());
    segment.page_count = static_cast<int32_t>(pages[i].size());
    segment.open_page = open_pages[i];
    batch.pages.insert(batch.pages.end(), pages[i].begin(), pages[i].end());
    batch.segments.push_back(segment);
    OutputRow output;
    output.row = segment.first_row;
    output.position = positions[i] + 1;
    output.params = params[i];
    batch.outputs.push_back(output);
  }
  return batch;
}

}  // namespace sessa
