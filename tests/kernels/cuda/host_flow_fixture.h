// The CUDA backend over the stand-in for CUDA (fake_cuda.h): everything but the kernels is the real thing.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/cuda_ops.h"
#include "runtime/model.h"
#include "tests/kernels/cuda/cuda_fixture.h"
#include "tests/kernels/cuda/fake_cuda.h"
#include "tools/random_weights.h"

namespace sessa::cuda {

class HostFlowTest : public testing::Test {
 protected:
  static constexpr int32_t kPages = 24, kOpenPages = 8;

  void TearDown() override {
    model_.reset();
    EXPECT_EQ(fake_cuda::LivingObjects(), 0) << "left on the device";
    EXPECT_EQ(fake_cuda::Complaints(), std::vector<std::string>());
    fake_cuda::Reset();
  }

  static ModelShape Shape() { return MakeShape(64, 2, 4, 2, 97); }
  static OpsOptions Options() {
    OpsOptions options;
    options.state_dtype = StateDtype::kCompact;
    options.max_rows = 64;
    options.max_segments = 8;
    return options;
  }
  // What the stand-in's sampler draws: of the position alone.
  static int32_t TokenAt(int64_t position, const ModelShape& shape) {
    return static_cast<int32_t>((7 * position + 3) % shape.vocab);
  }

  absl::StatusOr<std::unique_ptr<Ops>> Create(const OpsOptions& options, const ModelShape& shape = Shape()) {
    fake_cuda::OnLaunch<SampleKernelParams>("SampleKernel", [shape](const SampleKernelParams& p) {
      for (int32_t i = 0; i < p.row_count; ++i) {
        const OutputMeta& output = p.outputs != nullptr ? p.outputs[i] : p.few_outputs[i];
        if (output.mode == OutputMode::kNone) continue;
        const bool drawn = output.mode == OutputMode::kSample;
        p.results[i] = {drawn ? TokenAt(output.position, shape) : output.target, drawn ? 0.0f : -2.5f, 1, 0};
        if (output.slot >= 0) p.slots[output.slot] = p.results[i].token;
      }
      if (p.saturations_copy != nullptr) *p.saturations_copy = *p.saturations;
    });
    weights_ = std::make_unique<RandomWeights>(shape, 1);
    return CreateCudaOps(shape, weights_->tensors(), options);
  }
  // A model with state.
  Model& Start(const OpsOptions& options = Options(), const ModelShape& shape = Shape()) {
    auto ops = Create(options, shape);
    EXPECT_EQ(ops.status().ToString(), "OK");
    const bool open = options.state_dtype == StateDtype::kCompact;
    EXPECT_EQ((*ops)->AllocateState(kPages, open ? kOpenPages : 0).ToString(), "OK");
    model_ = std::make_unique<Model>(*std::move(ops));
    return *model_;
  }
  absl::StatusOr<StepResult> Step(const StepBatch& batch) {
    model_->Launch(batch);
    return model_->Collect();
  }

  // `count` sessions that decode, session i at `position` + i with a page of its own, sampled by the device.
  static StepBatch Decoders(int32_t count, int64_t position) {
    static const SampleParams plain;
    std::vector<int64_t> positions;
    std::vector<std::vector<PageId>> pages;
    std::vector<PageId> open;
    for (int32_t i = 0; i < count; ++i) {
      positions.push_back(position + i);
      pages.emplace_back((position + i) / kPageTokens + 1, i);
      open.push_back(i);
    }
    return DecodeBatch(std::vector<int32_t>(count, 5), positions, pages, open,
                       std::vector<const SampleParams*>(count, &plain));
  }
  // A prompt's chunk, behind what is in the batch; its last row is drawn from, or its last `outputs` rows are
  // scored.
  static void AddPrompt(StepBatch* batch, int32_t rows, const OutputRow& output, int32_t outputs = 1) {
    Segment segment;
    segment.first_row = batch->rows();
    segment.rows = rows;
    segment.page_begin = static_cast<int32_t>(batch->pages.size());
    segment.page_count = (rows + kPageTokens - 1) / kPageTokens;
    segment.open_page = kOpenPages - 1;
    for (int32_t i = 0; i < segment.page_count; ++i) batch->pages.push_back(kPages - 1 - i);
    batch->tokens.insert(batch->tokens.end(), rows, 9);
    for (int32_t i = rows - outputs; i < rows; ++i) {
      OutputRow& added = batch->outputs.emplace_back(output);
      added.row = segment.first_row + i;
      added.position = i + 1;
    }
    batch->segments.push_back(segment);
  }
  static OutputRow Drawn() {
    static const SampleParams plain;
    OutputRow output;
    output.params = &plain;
    return output;
  }
  static std::vector<int32_t> Tokens(const StepResult& result) {
    std::vector<int32_t> tokens;
    for (const OutputResult& output : result.outputs) tokens.push_back(output.token);
    return tokens;
  }

  std::unique_ptr<RandomWeights> weights_;
  std::unique_ptr<Model> model_;
};

}  // namespace sessa::cuda
