#include "scheduler/chunk_governor.h"

#include <algorithm>
#include <bit>

namespace sessa {
namespace {

constexpr double kWeight = 0.1;     // of a new measurement in the average of steps without prefill
constexpr double kAdded = 0.7;      // what prefill may add to a step, in steps without it
constexpr double kLeastRate = 0.5;  // of the rate of prefill at max_rows
constexpr double kLeastRows = 8;
constexpr int32_t kFirstLook = 4;  // steps with prefill before the first one without, at a number of decoders
constexpr int32_t kLookAgain = 64;  // and between later ones
// One chunk in so many is smaller, by this factor: from chunks of one size nobody learns what is fixed.
constexpr int64_t kLookSmaller = 8;
constexpr double kSmaller = 0.7;

}  // namespace

ChunkGovernor::ChunkGovernor(int32_t max_rows) : max_rows_(max_rows) {}

int32_t ChunkGovernor::Bucket(int32_t decode_rows) {
  return std::bit_width(static_cast<uint32_t>(decode_rows)) - 1;
}

int32_t ChunkGovernor::MaxPrefillRows(int32_t decode_rows, int32_t waiting, double place) const {
  if (decode_rows == 0) return max_rows_;
  const Decoding& decoding = decoding_[Bucket(decode_rows)];
  if (decoding.steps_with_prefill >= (decoding.seconds == 0 ? kFirstLook : kLookAgain)) return 0;
  const double alone = DecodeSeconds(decode_rows);
  if (alone == 0 || !cost_.known()) return std::max(1, max_rows_ / 8);
  const double others = std::max(0, waiting - 1);
  const double rows = std::max({cost_.RowsWithin(kAdded * alone * (1 + others / decode_rows), place),
                                cost_.RowsForRate(kLeastRate, place, max_rows_), kLeastRows});
  const bool look = chunks_ % kLookSmaller == kLookSmaller - 1;
  return std::clamp(static_cast<int32_t>(std::min<double>(rows, max_rows_) * (look ? kSmaller : 1)), 1,
                    max_rows_);
}

void ChunkGovernor::Observe(int32_t decode_rows, const PrefillChunk& chunk, double seconds) {
  if (decode_rows == 0) return;
  Decoding& decoding = decoding_[Bucket(decode_rows)];
  if (chunk.rows == 0) {
    const bool first = decoding.seconds == 0;
    decoding.seconds = first ? seconds : decoding.seconds + kWeight * (seconds - decoding.seconds);
    decoding.steps_with_prefill = 0;
    return;
  }
  ++decoding.steps_with_prefill;
  ++chunks_;
  const double alone = DecodeSeconds(decode_rows);
  if (alone > 0) cost_.Observe(chunk, std::max(0.0, seconds - alone));
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

}  // namespace sessa
