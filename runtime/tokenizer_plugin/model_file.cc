#include "runtime/tokenizer_plugin/model_file.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/tokenizer_plugin/charsmap.h"

namespace sessa {
namespace {

// SentencePiece has room for so many user-defined symbols that begin a text (PrefixMatcher::PrefixMatch), and
// reads beyond it when there are more.
constexpr size_t kMostNestedSymbols = 64;

// Field numbers of sentencepiece_model.proto.
constexpr uint32_t kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3, kDenormalizerSpec = 5;  // ModelProto
constexpr uint32_t kPiece = 1, kPieceType = 3;                  // SentencePiece
constexpr uint32_t kByteFallback = 35;                          // TrainerSpec
constexpr uint32_t kCharsmap = 2, kRemoveExtraWhitespaces = 4;  // NormalizerSpec
constexpr int32_t kUserDefined = 4;                             // SentencePiece.Type

// The fields of one message, in the order of the file. Stricter than protobuf where the two might disagree on
// what the bytes mean: groups and overlong tags are damage.
class Fields {
 public:
  enum Wire { kNumber = 0, kEight = 1, kBytes = 2, kFour = 5 };

  explicit Fields(absl::string_view bytes) : rest_(bytes) {}

  // False at the end, and when the rest is damaged.
  bool Next() {
    uint64_t tag = 0, size = 0;
    if (rest_.empty()) return false;
    if (!Varint(&tag) || tag > UINT32_MAX || tag >> 3 == 0) return Fail();
    tag_ = static_cast<uint32_t>(tag);
    switch (tag & 7) {
      case kNumber:
        return Varint(&number_) || Fail();
      case kEight:
        return Take(8) || Fail();
      case kBytes:
        return (Varint(&size) && Take(size)) || Fail();
      case kFour:
        return Take(4) || Fail();
    }
    return Fail();
  }
  // A known field of another wire type is unknown to protobuf, too.
  bool Is(uint32_t field, Wire wire) const { return tag_ == (field << 3 | wire); }
  absl::string_view bytes() const { return bytes_; }
  uint64_t number() const { return number_; }
  bool damaged() const { return damaged_; }

 private:
  bool Fail() {
    damaged_ = true;
    return false;
  }
  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const uint8_t byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      *value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  bool Take(uint64_t size) {
    if (size > rest_.size()) return false;
    bytes_ = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return true;
  }

  absl::string_view rest_;
  uint32_t tag_ = 0;
  absl::string_view bytes_;
  uint64_t number_ = 0;
  bool damaged_ = false;
};

class Checker {
 public:
  absl::StatusOr<TokenizerFacts> Check(absl::string_view model) {
    Fields fields(model);
    absl::Status status;
    while (status.ok() && fields.Next()) {
      if (fields.Is(kPieces, Fields::kBytes)) status = ReadPiece(fields.bytes());
      if (fields.Is(kTrainerSpec, Fields::kBytes)) status = ReadTrainer(fields.bytes());
      if (fields.Is(kNormalizerSpec, Fields::kBytes)) status = ReadNormalizer(fields.bytes());
      if (fields.Is(kDenormalizerSpec, Fields::kBytes)) status = ReadDenormalizer(fields.bytes());
    }
    if (status.ok()) status = End(fields);
    if (status.ok()) status = CheckSymbols();
    if (!status.ok()) return status;
    return TokenizerFacts{byte_fallback_ && !rewrites_ && !drops_spaces_};
  }

 private:
  static absl::Status End(const Fields& fields) {
    return fields.damaged() ? absl::InvalidArgumentError("damaged or truncated") : absl::OkStatus();
  }
  absl::Status ReadPiece(absl::string_view message) {
    absl::string_view piece;
    bool user_defined = false;
    Fields fields(message);
    while (fields.Next()) {
      if (fields.Is(kPiece, Fields::kBytes)) piece = fields.bytes();
      if (fields.Is(kPieceType, Fields::kNumber)) {
        user_defined |= static_cast<int32_t>(fields.number()) == kUserDefined;
      }
    }
    if (user_defined) symbols_.push_back(piece.substr(0, piece.find('\0')));  // SentencePiece ends them there
    return End(fields);
  }
  absl::Status ReadTrainer(absl::string_view message) {
    Fields fields(message);
    while (fields.Next()) {
      if (fields.Is(kByteFallback, Fields::kNumber)) byte_fallback_ = fields.number() != 0;
    }
    return End(fields);
  }
  absl::Status ReadNormalizer(absl::string_view message) {
    Fields fields(message);
    while (fields.Next()) {
      if (fields.Is(kCharsmap, Fields::kBytes)) {
        rewrites_ = !fields.bytes().empty();
        if (const absl::Status status = CheckCharsmap(fields.bytes()); !status.ok()) return status;
      }
      if (fields.Is(kRemoveExtraWhitespaces, Fields::kNumber)) drops_spaces_ = fields.number() != 0;
    }
    return End(fields);
  }
  // Its rules are for text that is put together, which SentencePiece is never asked to do here; it opens them
  // all the same.
  absl::Status ReadDenormalizer(absl::string_view message) {
    Fields fields(message);
    while (fields.Next()) {
      if (!fields.Is(kCharsmap, Fields::kBytes)) continue;
      if (const absl::Status status = CheckCharsmap(fields.bytes()); !status.ok()) return status;
    }
    return End(fields);
  }
  absl::Status CheckSymbols() {
    std::sort(symbols_.begin(), symbols_.end());
    symbols_.erase(std::unique(symbols_.begin(), symbols_.end()), symbols_.end());
    std::vector<absl::string_view> nested;  // each begins with the one before it
    for (const absl::string_view symbol : symbols_) {
      while (!nested.empty() && !absl::StartsWith(symbol, nested.back())) nested.pop_back();
      nested.push_back(symbol);
      if (nested.size() > kMostNestedSymbols) {
        return absl::InvalidArgumentError(
            absl::StrCat("more than ", kMostNestedSymbols, " user-defined symbols begin alike"));
      }
    }
    return absl::OkStatus();
  }

  // As protobuf reads them: the last value counts; defaults where there is none.
  bool byte_fallback_ = false, rewrites_ = false, drops_spaces_ = true;
  std::vector<absl::string_view> symbols_;  // user-defined ones
};

}  // namespace

absl::StatusOr<TokenizerFacts> CheckTokenizerModel(absl::string_view model) { return Checker().Check(model); }

}  // namespace sessa
