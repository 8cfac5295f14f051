#include "scheduler/chunk_cost.h"

#include <gtest/gtest.h>

#include <cmath>

namespace sessa {
namespace {

PrefillChunk Chunk(int64_t start, int32_t rows) {
  PrefillChunk chunk;
  chunk.Add(start, rows);
  return chunk;
}

TEST(PrefillChunk, AveragesThePlacesOfItsRows) {
  PrefillChunk chunk = Chunk(100, 50);
  EXPECT_EQ(chunk.rows, 50);
  EXPECT_DOUBLE_EQ(chunk.mean_place, 125);
  chunk.Add(0, 150);
  EXPECT_EQ(chunk.rows, 200);
  EXPECT_DOUBLE_EQ(chunk.mean_place, (50 * 125 + 150 * 75) / 200.0);
}

TEST(ChunkCost, FindsTheThreePrices) {
  const double fixed = 0.4e-3, per_row = 10e-6, per_place = 20e-9;
  ChunkCost cost;
  EXPECT_FALSE(cost.known());
  for (int i = 0; i < 200; ++i) {
    const PrefillChunk chunk = Chunk(i % 7 * 300, 16 + i % 5 * 40);
    cost.Observe(chunk, fixed + chunk.rows * (per_row + per_place * chunk.mean_place));
  }
  EXPECT_TRUE(cost.known());
  for (const double rows : {10, 100, 400}) {
    for (const double first : {0, 1000, 3000}) {
      const double seconds = fixed + rows * (per_row + per_place * (first + rows / 2));
      EXPECT_NEAR(cost.RowsWithin(seconds, first), rows, 0.02 * rows) << first;
    }
  }
  EXPECT_LE(cost.RowsWithin(0.5 * fixed, 0), 0) << "less than a chunk's own price";
}

TEST(ChunkCost, RowsForRateReachTheirShare) {
  const double fixed = 1e-3, per_row = 2e-6;
  ChunkCost cost;
  for (int i = 0; i < 200; ++i) {
    const PrefillChunk chunk = Chunk(0, 16 + i % 5 * 100);
    cost.Observe(chunk, fixed + per_row * chunk.rows);
  }
  const double rows = cost.RowsForRate(0.5, 0, 512);
  const double rate = rows / (fixed + per_row * rows), best = 512 / (fixed + per_row * 512);
  EXPECT_NEAR(rate / best, 0.5, 0.02);
}

TEST(ChunkCost, NoPriceIsNegative) {
  ChunkCost cost;
  for (int i = 0; i < 100; ++i) {  // the more rows, the less time: noise
    const PrefillChunk chunk = Chunk(1000 - i * 10, 10 + i);
    cost.Observe(chunk, 1e-3 - 5e-6 * i);
    EXPECT_GE(cost.RowsWithin(1, 0), 0);
    EXPECT_GE(cost.RowsForRate(0.5, 0, 512), 0);
  }
  ChunkCost nothing;
  nothing.Observe(Chunk(0, 10), 0);
  EXPECT_EQ(nothing.RowsWithin(1, 0), HUGE_VAL) << "chunks that cost nothing";
}

}  // namespace
}  // namespace sessa
