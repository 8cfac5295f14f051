// What tests of the host backends share: shapes, a backend with pages, and a session stepped by hand.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/model.h"
#include "runtime/state_arena.h"
#include "runtime/step_batch_builder.h"

namespace sessa {

struct ShapeCase {
  std::string name;
  ModelShape shape;
};

// A base shape, then one thing changed a row.
inline std::vector<ShapeCase> ShapeCases() {
  ModelShape base;
  base.vocab = 97;
  base.width = 64;
  base.layers = 2;
  base.heads = 4;
  base.kv_heads = 2;
  std::vector<ShapeCase> cases(10, ShapeCase{"base", base});
  cases[1].name = "odd_width";  // 72 = 4 heads of 18
  cases[1].shape.width = 72;
  cases[2].name = "one_head";
  cases[2].shape.heads = cases[2].shape.kv_heads = 1;
  cases[3].name = "one_kv_head_of_seven";
  cases[3].shape.width = 7 * 12;
  cases[3].shape.heads = 7;
  cases[3].shape.kv_heads = 1;
  cases[4].name = "no_rope";
  cases[4].shape.use_rope = false;
  cases[5].name = "tied_head";
  cases[5].shape.tied_head = true;
  cases[6].name = "narrow";  // heads of 2
  cases[6].shape.width = 6;
  cases[6].shape.heads = cases[6].shape.kv_heads = 3;
  cases[7].name = "width_of_13";  // odd: only without RoPE
  cases[7].shape.width = 13;
  cases[7].shape.heads = cases[7].shape.kv_heads = 1;
  cases[7].shape.use_rope = false;
  cases[8].name = "wide_heads";  // two of 100
  cases[8].shape.width = 200;
  cases[8].shape.heads = cases[8].shape.kv_heads = 2;
  cases[9].name = "one_kv_head";
  cases[9].shape.kv_heads = 1;
  return cases;
}

inline std::vector<int32_t> Tokens(int32_t count, int32_t vocab) {
  std::vector<int32_t> tokens(count);
  for (int32_t i = 0; i < count; ++i) tokens[i] = (i * i + 5 * i + 3) % vocab;
  return tokens;
}

inline OpsOptions HostOptions(StateDtype dtype, int32_t threads = 2) {
  OpsOptions options;
  options.state_dtype = dtype;
  options.cpu_threads = threads;
  return options;
}

// A model with pages for 64 `pages` tokens in all.
struct Runner {
  Runner(absl::StatusOr<std::unique_ptr<Ops>> ops, StateDtype dtype, int32_t pages = 16)
      : model(std::move(ops).value()), arena(pages, dtype == StateDtype::kCompact ? 4 : 0) {
    EXPECT_TRUE(model.ops().AllocateState(pages, 4).ok());
  }
  Model model;
  StateArena arena;
};

// One session that is stepped by hand, greedily.
inline StepResult Step(Runner* runner, PageTable* table, std::vector<int32_t> tokens, int32_t out_slot = -1,
                       int32_t token_slot = -1) {
  static const SampleParams* const kGreedy = [] {
    auto* params = new SampleParams;
    params->temperature = 0;
    return params;
  }();
  std::vector<PageCopy> copies;
  const int64_t start = table->tokens(), end = start + static_cast<int64_t>(tokens.size());
  EXPECT_TRUE(table->EnsureCapacity(end, &runner->arena, &copies));
  for (const PageCopy& copy : copies) {
    if (copy.kind == PageKind::kState) runner->model.ops().CopyPage(copy.from, copy.to);
    if (copy.kind == PageKind::kOpen) runner->model.ops().CopyOpenPage(copy.from, copy.to);
  }
  OutputRow output;
  output.row = static_cast<int32_t>(tokens.size()) - 1;
  output.position = end;
  output.slot = out_slot;
  output.params = kGreedy;
  StepBatch batch;
  StepBatchBuilder(&batch).Append(tokens, start, *table, {&output, 1}, token_slot);
  runner->model.Launch(batch);
  StepResult result = runner->model.Collect().value();
  table->Commit(end);
  return result;
}

}  // namespace sessa
