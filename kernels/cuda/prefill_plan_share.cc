// How many multiprocessors the forward kernel gets while the leaf inverses, a chain of launches too small to
// fill the chip, run beside it; or whether they are better run one after the other.
#include <algorithm>
#include <vector>

#include "kernels/cuda/prefill_plan.h"

namespace sessa::cuda {
namespace {

// Microseconds on an H200; only their proportions matter.
constexpr double kForwardTile = 1.2, kForwardPiece = 2;  // 128 rows of a head x 128 positions; a piece's ends
constexpr double kLaunch = 3, kNormRound = 2, kLeafRound = 12;
constexpr double kProductTile = 1.2, kProductStep = 0.25;
constexpr double kFork = 8;  // what two streams cost, and what makes the difference worth it
constexpr int32_t kNormBlocks = 16, kNormBlocksTogether = 8;  // of 128 rows; on a multiprocessor

int32_t Rounds(int32_t count, int32_t blocks) { return (count + blocks - 1) / blocks; }

// The forward kernel's pieces as its blocks take them: longest first, in rounds of alternating direction.
double ForwardTime(const PrefillLimits& limits, const Lists& lists, int32_t blocks) {
  std::vector<double> busy(blocks);
  int32_t work = 0;
  for (const ForwardTile& tile : lists.forward) {
    const double piece = kForwardPiece + kForwardTile * Rounds(tile.position + tile.rows, kTileRows);
    for (int32_t head = 0; head < limits.shape.heads; head++, work++) {
      const int32_t place = work % blocks;
      busy[work / blocks % 2 == 0 ? place : blocks - 1 - place] += piece;
    }
  }
  return *std::max_element(busy.begin(), busy.end());
}

double InverseTime(const Lists& lists, const PrefillPlan& plan, int32_t blocks) {
  double time = 2 * kLaunch +
                kNormRound * Rounds(plan.rows.count * kNormBlocks, blocks * kNormBlocksTogether) +
                kLeafRound * Rounds(plan.leaves.count, blocks);
  for (const PrefillRange& level : plan.inverse) {
    int32_t steps = 0;
    for (int32_t i = 0; i < level.count; i++) {
      steps = std::max(steps, lists.product[level.first + i].steps);
    }
    time += kLaunch + (kProductTile + kProductStep * steps) * Rounds(level.count, blocks);
  }
  return time;
}

}  // namespace

void ShareMultiprocessors(const PrefillLimits& limits, const Lists& lists, PrefillPlan* plan) {
  const int32_t all = limits.multiprocessors;
  if (plan->planes != 1 || plan->panels.size() != 1 || plan->leaves.count == 0 || plan->forward.count == 0) {
    return;
  }
  double best = ForwardTime(limits, lists, all) + InverseTime(lists, *plan, all) - kFork;
  for (int32_t beside = 4; beside <= all / 2; beside += 4) {  // leaves come in clusters of two
    const double time = std::max(ForwardTime(limits, lists, all - beside), InverseTime(lists, *plan, beside));
    if (time >= best) continue;
    best = time;
    plan->forward_blocks = all - beside;
    plan->beside_blocks = beside;
  }
}

}  // namespace sessa::cuda
