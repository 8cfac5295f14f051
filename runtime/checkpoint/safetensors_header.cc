#include "runtime/checkpoint/safetensors_header.h"

#include <limits>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/checkpoint/json.h"

namespace sessa {
namespace {

using nlohmann::json;

constexpr char kMetadata[] = "__metadata__";

// Takes nlohmann's events; every handler returns false to stop, with status_ saying why.
class HeaderHandler : public nlohmann::json_sax<json> {
 public:
  explicit HeaderHandler(absl::string_view file) : file_(file) {}

  const absl::Status& status() const { return status_; }
  std::vector<SafetensorsEntry> TakeEntries() { return std::move(entries_); }

  bool start_object(size_t) override {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kTop;
        return true;
      case Place::kEntryStart:
        place_ = Place::kEntry;
        return true;
      case Place::kMetadataStart:
        place_ = Place::kMetadata;
        return true;
      default:
        return Unexpected("an object");
    }
  }

  bool end_object() override {
    if (place_ == Place::kEntry) {
      if (seen_ != (kDtype | kShape | kOffsets)) {
        return Fail("needs dtype, shape and data_offsets");
      }
      place_ = Place::kTop;
    } else if (place_ == Place::kMetadata) {
      place_ = Place::kTop;
    } else {
      place_ = Place::kEnd;
    }
    return true;
  }

  bool key(std::string& name) override {
    if (place_ == Place::kTop) return TopKey(name);
    if (place_ == Place::kMetadata) {
      if (!metadata_keys_.insert(name).second) return Fail(absl::StrCat("duplicate key ", Quoted(name)));
      return true;
    }
    return EntryKey(name);
  }

  bool string(std::string& value) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kDtypeValue) return Unexpected("a string");
    entries_.back().dtype = std::move(value);
    place_ = Place::kEntry;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::kShapeStart) {
      place_ = Place::kShape;
    } else if (place_ == Place::kOffsetsStart) {
      place_ = Place::kOffsets;
      offsets_.clear();
    } else {
      return Unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets) {
      if (offsets_.size() != 2) return Fail("data_offsets must be two numbers");
      entries_.back().begin = offsets_[0];
      entries_.back().end = offsets_[1];
    }
    place_ = Place::kEntry;
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (place_ == Place::kShape) {
      if (value > uint64_t{std::numeric_limits<int64_t>::max()}) return Fail("a dimension is too large");
      if (entries_.back().dims.size() == kMaxDims)
        return Fail(absl::StrCat("more than ", kMaxDims, " dimensions"));
      entries_.back().dims.push_back(static_cast<int64_t>(value));
    } else if (place_ == Place::kOffsets) {
      if (offsets_.size() == 2) return Fail("data_offsets must be two numbers");
      offsets_.push_back(value);
    } else {
      return Unexpected("a number");
    }
    return true;
  }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(int64_t) override { return Unexpected("a negative number"); }
  bool number_float(double, const std::string&) override { return Unexpected("a fraction"); }
  bool binary(json::binary_t&) override { return Unexpected("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(file_, ": header is not JSON at byte ", position));
    }
    return false;
  }

 private:
  // What is expected next.
  enum class Place {
    kStart,
    kTop,
    kMetadataStart,
    kMetadata,
    kEntryStart,
    kEntry,
    kDtypeValue,
    kShapeStart,
    kShape,
    kOffsetsStart,
    kOffsets,
    kEnd,
  };
  enum Field : unsigned { kDtype = 1, kShape = 2, kOffsets = 4 };
  static constexpr size_t kMaxDims = 8;

  bool TopKey(const std::string& name) {
    if (!names_.insert(name).second) {
      status_ = absl::InvalidArgumentError(absl::StrCat(file_, ": tensor ", Quoted(name), ": duplicate key"));
      return false;
    }
    if (name == kMetadata) {
      place_ = Place::kMetadataStart;
      return true;
    }
    entries_.emplace_back();
    entries_.back().name = name;
    seen_ = 0;
    place_ = Place::kEntryStart;
    return true;
  }

  bool EntryKey(const std::string& name) {
    const std::pair<Field, Place> field = name == "dtype"          ? std::pair(kDtype, Place::kDtypeValue)
                                          : name == "shape"        ? std::pair(kShape, Place::kShapeStart)
                                          : name == "data_offsets" ? std::pair(kOffsets, Place::kOffsetsStart)
                                                                   : std::pair(Field{}, Place::kEnd);
    if (field.second == Place::kEnd) return Fail(absl::StrCat("unknown key ", Quoted(name)));
    if ((seen_ & field.first) != 0) return Fail(absl::StrCat("duplicate key ", Quoted(name)));
    seen_ |= field.first;
    place_ = field.second;
    return true;
  }

  bool Unexpected(absl::string_view what) {
    return Fail(absl::StrCat("the header has ", what, " in a wrong place"));
  }

  bool Fail(absl::string_view reason) {
    const bool in_tensor = place_ != Place::kStart && place_ != Place::kTop && place_ != Place::kEnd &&
                           place_ != Place::kMetadata && place_ != Place::kMetadataStart && !entries_.empty();
    const std::string tensor = in_tensor ? absl::StrCat("tensor ", Quoted(entries_.back().name), ": ") : "";
    status_ = absl::InvalidArgumentError(absl::StrCat(file_, ": ", tensor, reason));
    return false;
  }

  const absl::string_view file_;
  absl::Status status_;
  std::vector<SafetensorsEntry> entries_;
  std::unordered_set<std::string> names_, metadata_keys_;
  Place place_ = Place::kStart;
  unsigned seen_ = 0;              // fields of the current entry
  std::vector<uint64_t> offsets_;  // of the current entry
};

}  // namespace

absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(absl::string_view file,
                                                                     absl::string_view header) {
  if (header.empty() || header[0] != '{') {
    return absl::InvalidArgumentError(absl::StrCat(file, ": header does not begin with {"));
  }
  HeaderHandler handler(file);
  json::sax_parse(header.begin(), header.end(), &handler);
  if (!handler.status().ok()) return handler.status();
  return handler.TakeEntries();
}

}  // namespace sessa
