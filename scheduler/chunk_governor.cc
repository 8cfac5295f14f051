#include "scheduler/chunk_governor.h"

#include <algorithm>
#include <bit>

namespace sessa {
namespace {

constexpr double kWeight = 0.1;     // of a new measurement in the running averages
constexpr double kAdded = 1.0;      // what prefill may add to a step, in steps without it
constexpr double kLeastRate = 0.5;  // of the rate of prefill at max_rows
constexpr double kLeastRows = 8;
// Keeps the fixed part at 0 while all chunks were alike: then smaller ones are tried, which tells.
constexpr double kRidge = 1e-8;

}  // namespace

ChunkGovernor::ChunkGovernor(int32_t max_rows) : max_rows_(max_rows), limit_(std::max(1, max_rows / 8)) {}

void ChunkGovernor::Observe(int32_t decode_rows, int32_t prefill_rows, double seconds) {
  if (decode_rows == 0) return;
  const double without = DecodeSeconds(decode_rows);
  if (prefill_rows == 0) {
    double& average = decode_seconds_[std::bit_width(static_cast<uint32_t>(decode_rows)) - 1];
    average = average == 0 ? seconds : average + kWeight * (seconds - average);
  } else if (without > 0) {
    ObserveChunk(prefill_rows, std::max(0.0, seconds - without));
  }
  if (without > 0 && chunk_seen_) UpdateLimit(without);
}

double ChunkGovernor::DecodeSeconds(int32_t rows) const {
  const int32_t size = static_cast<int32_t>(decode_seconds_.size());
  const int32_t bucket = std::bit_width(static_cast<uint32_t>(rows)) - 1;
  for (int32_t distance = 0; distance < size; ++distance) {
    if (bucket - distance >= 0 && decode_seconds_[bucket - distance] > 0)
      return decode_seconds_[bucket - distance];
    if (bucket + distance < size && decode_seconds_[bucket + distance] > 0)
      return decode_seconds_[bucket + distance];
  }
  return 0;
}

void ChunkGovernor::ObserveChunk(double rows, double seconds) {
  const double x = 1 / rows, y = seconds / rows;
  if (!chunk_seen_) {
    chunk_seen_ = true;
    mean_x_ = x;
    mean_y_ = y;
    return;
  }
  const double dx = x - mean_x_, dy = y - mean_y_;
  mean_x_ += kWeight * dx;
  mean_y_ += kWeight * dy;
  variance_x_ = (1 - kWeight) * (variance_x_ + kWeight * dx * dx);
  covariance_ = (1 - kWeight) * (covariance_ + kWeight * dx * dy);
}

void ChunkGovernor::UpdateLimit(double decode_seconds) {
  double fixed = std::max(0.0, covariance_ / (variance_x_ + kRidge));
  double per_row = mean_y_ - fixed * mean_x_;
  if (per_row < 0) {  // all of it is fixed
    per_row = 0;
    fixed = mean_y_ / mean_x_;
  }
  const double room = kAdded * decode_seconds - fixed;
  const double aim = per_row > 0 ? room / per_row : room >= 0 ? max_rows_ : 0;
  // rows / (fixed + per_row rows) >= kLeastRate max_rows / (fixed + per_row max_rows), solved for rows
  const double price = fixed + (1 - kLeastRate) * per_row * max_rows_;
  const double least = price > 0 ? kLeastRate * max_rows_ * fixed / price : 0;
  const double rows = std::max({aim, least, kLeastRows});
  limit_ = std::clamp(static_cast<int32_t>(std::min<double>(rows, max_rows_)), 1, max_rows_);
}

}  // namespace sessa
