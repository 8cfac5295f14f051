// Rows of sessions that decode, one layer, with state chosen to be hard; what both attentions of it are in
// float64.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/kernels.h"
#include "kernels/cuda/step_tables.h"
#include "kernels/state_layout.h"
#include "tests/kernels/cuda/device_array.h"

namespace sessa::cuda {

// Where queries point (q of each head, and qb): nowhere in particular; at the token before; 64 tokens before,
// in another page; at the first token, so that every later part of the sum is rescaled. Far sharper than a
// softmax of random numbers.
enum class Focus { kDiffuse, kPrevious, kStride, kOldest };
inline constexpr Focus kFocuses[] = {Focus::kDiffuse, Focus::kPrevious, Focus::kStride, Focus::kOldest};
const char* Name(Focus focus);

// Rows share the pages of the past; the block of each row's own token is a page, and an open page, of its
// own. What must not be read is NaN: state of later tokens, s in the own block's page where the open page has
// it, pages and layers of nobody, the scratch pages of padded rows.
class DecodeCase {
 public:
  // Row i is at positions[i], that is, has so many tokens before it.
  DecodeCase(const ModelShape& shape, StateDtype state, std::vector<int32_t> positions, Focus focus,
             uint32_t seed);

  // Parameters for some of the rows, in this order (row r of all outputs is rows[r]); those after them, up to
  // the bucket, are padding. Poisons all outputs. Valid until the next call.
  AttentionParams Prepare(const std::vector<int32_t>& rows);
  const AttentionShape& attention() const { return attention_; }
  int32_t multiprocessors() const { return multiprocessors_; }
  const StepPlan& plan() const { return plan_; }

  // After the launch. An error text, empty when all is well: ctx and o are within tolerance, ctx of padding
  // is 0, nothing was left behind in counters, and the state is unchanged.
  std::string Check() const;
  std::vector<float> ctx() const { return ctx_.ToHost(); }  // (bucket, D)
  std::vector<float> o() const;                             // (bucket, D)

 private:
  // One attention of one row: out = sum_j w_j values_j in float64, and how far float32 may be from it.
  struct Expected {
    std::vector<double> out;
    double slack = 0;  // of the norm of the difference
  };
  Expected Feedback(int32_t row) const;
  Expected Forward(int32_t row, int32_t head) const;

  void MakeState(uint32_t seed);
  void MakeQueries(Focus focus, uint32_t seed);
  void StoreRow(char* page, Plane plane, int32_t in_page, const float* numbers) const;
  float Stored(Plane plane, float value) const;                 // what a page makes of it
  int32_t Pitch() const { return (shape_.width + 7) / 8 * 8; }  // of o in bf16
  int32_t Chain(int32_t tokens) const;                          // how many steps of a sum follow each other
  // s of token j as `row` sees it.
  const float* Values(int32_t row, int32_t j) const;

  const ModelShape shape_;
  StateLayout layout_;
  const int32_t layer_ = 1;  // of two
  const std::vector<int32_t> positions_;
  int32_t blocks_ = 0;  // of the shared past
  AttentionShape attention_;
  int32_t multiprocessors_ = 0;
  StepBatch batch_;
  StepPlan plan_{TableLayout(0)};

  // Dense, by token: (tokens, kv or D). s_ as the pages have it, open_s_ as the open pages do.
  std::vector<float> k_, v_, kb_, s_, open_s_;
  std::vector<float> q_, qb_;  // (rows, D)
  std::vector<char> pages_host_, open_host_;
  std::vector<int32_t> page_order_;  // of the shared blocks, then of each row's own
  std::vector<int32_t> rows_;        // prepared

  DeviceArray<char> pages_, open_pages_, tables_;
  DeviceArray<float> q_device_, qb_device_, o_, ctx_, partials_;
  DeviceArray<uint16_t> o_bf16_;
  DeviceArray<int32_t> arrivals_, next_item_;
};

}  // namespace sessa::cuda
