// Random prefill work on a GPU, and its solution in float64 by plain kernels.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/prefill.h"
#include "tests/kernels/cuda/device_array.h"

namespace sessa::cuda {

// How qb relates to kb, and gamma. kDiffuse: independent, gamma = 0.999 tanh(1 + normal / 2). kPrevious,
// kStride: qb_t points at kb of one (64) tokens earlier, gamma = 0.999. kNegative: kPrevious with gamma =
// -0.999.
enum class Attention { kDiffuse, kPrevious, kStride, kNegative };
const char* Name(Attention kind);

struct SegmentLength {
  int start = 0, rows = 0;
};

// ||a - b|| / ||b|| over all rows, and of the worst row.
struct RelativeError {
  double all = 0, worst_row = 0;
  int64_t worst = -1;
};

// One step's prefill rows with their state in randomly ordered pages of layer `layer`. What a launcher must
// not read or must write (rows of no segment, state of positions to come, outputs, workspace) is poisoned
// with NaN.
class PrefillCase {
 public:
  PrefillCase(const PrefillLimits& limits, const std::vector<SegmentLength>& lengths, Attention kind,
              uint64_t seed, float f_scale = 1);

  PrefillContext context() const;
  PrefillForwardParams forward() const;
  PrefillFeedbackParams feedback() const;
  const PrefillPlan& plan() const { return plan_; }
  const std::vector<PrefillSegment>& segments() const { return segments_; }
  int rows() const { return rows_; }

  // Runs the launchers and waits.
  void Run();
  // The same where Solve makes f = o W_o^T and u = s g itself, inverses on a side stream. f is then what it
  // made.
  void RunFused();
  // An error text when u of RunFused is not s * g, rounded; empty: fine.
  std::string CheckGate() const;
  // Against float64, after Run.
  RelativeError ForwardError() const;
  RelativeError FeedbackError() const;
  // An error text when pages or open pages differ from s, or anything else in the slabs changed; empty: fine.
  std::string CheckState() const;
  uint64_t saturations() const { return saturations_.ToHost()[0]; }
  std::vector<float> s() const { return s_.ToHost(); }

 private:
  void FillState(Attention kind, uint64_t seed, float f_scale);
  std::string CheckSegmentState(const PrefillSegment& segment, const std::vector<float>& s,
                                std::vector<char>* before, std::vector<char>* open_before,
                                const std::vector<char>& after, const std::vector<char>& open_after) const;

  PrefillLimits limits_;
  StateLayout layout_;
  int layer_ = 0;
  std::vector<PrefillSegment> segments_;
  std::vector<int32_t> page_table_host_;
  int rows_ = 0, positions_ = 0, page_count_ = 0;
  std::vector<int64_t> base_;  // of each segment's positions in the dense arrays
  PrefillPlan plan_;
  DeviceArray<char> table_, workspace_, pages_, open_pages_;
  DeviceArray<int32_t> page_table_;
  DeviceArray<uint16_t> q_, qb_, o_, u_;
  DeviceArray<float> gamma_, f_, s_, g_;
  DeviceArray<unsigned long long> saturations_;
  // Dense copies for the reference: (positions of all segments, width), rounded as the state is.
  DeviceArray<float> k_, v_, kb_, past_s_;
  std::vector<char> pages_before_, open_before_;
};

}  // namespace sessa::cuda
