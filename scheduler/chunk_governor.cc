#include "scheduler/chunk_governor.h"

#include <algorithm>
#include <bit>

namespace sessa {
namespace {

constexpr double kWeight = 0.1;     // of a new measurement in the running averages
constexpr double kAdded = 1.0;      // what prefill may add to a step, in steps without it
constexpr double kLeastRate = 0.5;  // of the rate of prefill at max_rows
constexpr double kLeastRows = 8;
constexpr int32_t kFirstLook = 4;   // steps with prefill before the first one without, at a number of decoders
constexpr int32_t kLookAgain = 64;  // and between later ones
// Keeps the fixed part at 0 while all chunks were alike: then smaller ones are tried, which tells.
constexpr double kRidge = 1e-8;

}  // namespace

ChunkGovernor::ChunkGovernor(int32_t max_rows) : max_rows_(max_rows) {}

int32_t ChunkGovernor::Bucket(int32_t decode_rows) {
  return std::bit_width(static_cast<uint32_t>(decode_rows)) - 1;
}

int32_t ChunkGovernor::MaxPrefillRows(int32_t decode_rows, int32_t waiting) const {
  if (decode_rows == 0) return max_rows_;
  const Decoding& decoding = decoding_[Bucket(decode_rows)];
  if (decoding.steps_with_prefill >= (decoding.seconds == 0 ? kFirstLook : kLookAgain)) return 0;
  const double alone = DecodeSeconds(decode_rows);
  if (alone == 0 || !chunk_seen_) return std::max(1, max_rows_ / 8);
  const double others = std::max(0, waiting - 1);
  return Limit(kAdded * alone * (1 + others / decode_rows));
}

void ChunkGovernor::Observe(int32_t decode_rows, int32_t prefill_rows, double seconds) {
  if (decode_rows == 0) return;
  Decoding& decoding = decoding_[Bucket(decode_rows)];
  if (prefill_rows == 0) {
    const bool first = decoding.seconds == 0;
    decoding.seconds = first ? seconds : decoding.seconds + kWeight * (seconds - decoding.seconds);
    decoding.steps_with_prefill = 0;
    return;
  }
  ++decoding.steps_with_prefill;
  const double alone = DecodeSeconds(decode_rows);
  if (alone > 0) ObserveChunk(prefill_rows, std::max(0.0, seconds - alone));
}

double ChunkGovernor::DecodeSeconds(int32_t rows) const {
  const int32_t size = static_cast<int32_t>(decoding_.size());
  const int32_t bucket = Bucket(rows);
  for (int32_t distance = 0; distance < size; ++distance) {
    for (const int32_t near : {bucket - distance, bucket + distance}) {
      if (near >= 0 && near < size && decoding_[near].seconds > 0) return decoding_[near].seconds;
    }
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

int32_t ChunkGovernor::Limit(double allowed_seconds) const {
  double fixed = std::max(0.0, covariance_ / (variance_x_ + kRidge));
  double per_row = mean_y_ - fixed * mean_x_;
  if (per_row < 0) {  // all of it is fixed
    per_row = 0;
    fixed = mean_y_ / mean_x_;
  }
  const double room = allowed_seconds - fixed;
  const double aim = per_row > 0 ? room / per_row : room >= 0 ? max_rows_ : 0;
  // rows / (fixed + per_row rows) >= kLeastRate max_rows / (fixed + per_row max_rows), solved for rows
  const double price = fixed + (1 - kLeastRate) * per_row * max_rows_;
  const double least = price > 0 ? kLeastRate * max_rows_ * fixed / price : 0;
  const double rows = std::max({aim, least, kLeastRows});
  return std::clamp(static_cast<int32_t>(std::min<double>(rows, max_rows_)), 1, max_rows_);
}

}  // namespace sessa
