#include "runtime/step_batch_builder.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sessa {
namespace {

using testing::ElementsAre;

OutputRow Row(int32_t row) {
  OutputRow output;
  output.row = row;
  return output;
}

TEST(StepBatchBuilder, ConcatenatesSegmentsPagesAndOutputs) {
  StateArena arena(8, 2);
  PageTable decoding, prompt;
  std::vector<PageCopy> copies;
  ASSERT_TRUE(decoding.EnsureCapacity(64, &arena, &copies));
  decoding.Commit(64);
  ASSERT_TRUE(decoding.EnsureCapacity(65, &arena, &copies));
  ASSERT_TRUE(prompt.EnsureCapacity(200, &arena, &copies));  // more than this step writes

  StepBatch batch;
  batch.tokens = {9, 9};  // of an earlier step
  StepBatchBuilder builder(&batch);
  EXPECT_EQ(builder.Append({0}, 64, decoding, {Row(0)}, /*token_slot=*/3), 0);
  EXPECT_EQ(builder.Append({5, 6, 7}, 0, prompt, {Row(1), Row(2)}), 1);

  EXPECT_EQ(batch.rows(), 4);
  EXPECT_THAT(batch.tokens, ElementsAre(0, 5, 6, 7));
  ASSERT_EQ(batch.segments.size(), 2u);
  EXPECT_EQ(batch.segments[0].start, 64);
  EXPECT_EQ(batch.segments[0].page_count, 2);
  EXPECT_EQ(batch.segments[0].token_slot, 3);
  EXPECT_EQ(batch.segments[0].open_page, decoding.open_page());
  EXPECT_EQ(batch.segments[1].first_row, 1);
  EXPECT_EQ(batch.segments[1].rows, 3);
  EXPECT_EQ(batch.segments[1].page_begin, 2);
  EXPECT_EQ(batch.segments[1].page_count, 1);
  EXPECT_EQ(batch.segments[1].token_slot, -1);
  EXPECT_THAT(batch.pages, ElementsAre(decoding.pages()[0], decoding.pages()[1], prompt.pages()[0]));
  ASSERT_EQ(batch.outputs.size(), 3u);
  EXPECT_EQ(batch.outputs[0].row, 0);
  EXPECT_EQ(batch.outputs[1].row, 2);
  EXPECT_EQ(batch.outputs[2].row, 3);
  decoding.Release(&arena);
  prompt.Release(&arena);
}

}  // namespace
}  // namespace sessa
