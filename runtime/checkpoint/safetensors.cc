#include "runtime/checkpoint/safetensors.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/checkpoint/json.h"
#include "runtime/checkpoint/safetensors_header.h"

namespace sessa {
namespace {

absl::Status FileError(absl::string_view file, absl::string_view reason) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", reason));
}

absl::Status TensorError(absl::string_view file, const SafetensorsEntry& entry, absl::string_view reason) {
  return FileError(file, absl::StrCat("tensor ", Quoted(entry.name), ": ", reason));
}

uint64_t HeaderLength(absl::string_view contents) {
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(contents[i]);
  return length;
}

// Bytes of one number; 0 for a type that the format does not know.
uint64_t NumberBytes(absl::string_view dtype) {
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "BF16" || dtype == "F16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "F64" || dtype == "I64" || dtype == "U64" || dtype == "C64") return 8;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL") return 1;
  if (dtype == "F8_E4M3" || dtype == "F8_E5M2" || dtype == "F8_E8M0") return 1;
  return 0;
}

// The byte range agrees with dtype and shape.
absl::Status CheckSize(absl::string_view file, const SafetensorsEntry& entry, uint64_t data_size) {
  const uint64_t number = NumberBytes(entry.dtype);
  if (number == 0) return TensorError(file, entry, absl::StrCat("unknown dtype ", Quoted(entry.dtype)));
  uint64_t bytes = number;
  for (const int64_t dim : entry.dims) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dim), &bytes)) {
      return TensorError(file, entry, "the product of its shape overflows");
    }
  }
  if (entry.begin > entry.end) {
    return TensorError(file, entry,
                       absl::StrCat("data_offsets ", entry.begin, ", ", entry.end, " run backwards"));
  }
  if (entry.end - entry.begin != bytes) {
    return TensorError(
        file, entry,
        absl::StrCat("its shape needs ", bytes, " bytes, data_offsets give ", entry.end - entry.begin));
  }
  if (entry.end > data_size) {
    return TensorError(file, entry,
                       absl::StrCat("ends at byte ", entry.end, " of the data, which has only ", data_size,
                                    "; is the file truncated?"));
  }
  return absl::OkStatus();
}

// The tensors, in the order of their offsets, follow each other without gap or overlap and fill the data.
absl::Status CheckCover(absl::string_view file, const std::vector<SafetensorsEntry>& entries,
                        uint64_t data_size) {
  std::vector<const SafetensorsEntry*> order;
  order.reserve(entries.size());
  for (const SafetensorsEntry& entry : entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const SafetensorsEntry* a, const SafetensorsEntry* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  uint64_t end = 0;
  const SafetensorsEntry* previous = nullptr;
  for (const SafetensorsEntry* entry : order) {
    if (entry->begin < end)
      return TensorError(file, *entry, absl::StrCat("overlaps tensor ", Quoted(previous->name)));
    if (entry->begin > end) {
      return TensorError(file, *entry, absl::StrCat(entry->begin - end, " unused bytes lie before it"));
    }
    end = entry->end;
    previous = entry;
  }
  if (end != data_size) {
    return FileError(file, absl::StrCat(data_size - end, " bytes follow the last tensor"));
  }
  return absl::OkStatus();
}

bool ByName(const SafetensorsEntry& a, const SafetensorsEntry& b) { return a.name < b.name; }

}  // namespace

absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensors(absl::string_view file,
                                                               absl::string_view contents) {
  if (contents.size() < 8) return FileError(file, "shorter than the 8 bytes of the header length");
  const uint64_t length = HeaderLength(contents);
  if (length > kMaxSafetensorsHeader) {
    return FileError(
        file, absl::StrCat("header of ", length, " bytes; at most ", kMaxSafetensorsHeader, " are accepted"));
  }
  if (length > contents.size() - 8) {
    return FileError(file, absl::StrCat("header of ", length, " bytes in a file of ", contents.size(),
                                        "; is the file truncated?"));
  }
  absl::StatusOr<std::vector<SafetensorsEntry>> entries =
      ParseSafetensorsHeader(file, contents.substr(8, length));
  if (!entries.ok()) return entries.status();
  const absl::string_view data = contents.substr(8 + length);
  for (SafetensorsEntry& entry : *entries) {
    const absl::Status status = CheckSize(file, entry, data.size());
    if (!status.ok()) return status;
    entry.bytes = data.substr(entry.begin, entry.end - entry.begin);
  }
  const absl::Status status = CheckCover(file, *entries, data.size());
  if (!status.ok()) return status;
  std::sort(entries->begin(), entries->end(), ByName);
  return entries;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::vector<SafetensorsEntry>> entries = ParseSafetensors(path, (*file)->bytes());
  if (!entries.ok()) return entries.status();
  return std::unique_ptr<SafetensorsFile>(new SafetensorsFile(path, *std::move(file), *std::move(entries)));
}

const SafetensorsEntry* SafetensorsFile::Find(absl::string_view name) const {
  const auto it =
      std::lower_bound(entries_.begin(), entries_.end(), name,
                       [](const SafetensorsEntry& entry, absl::string_view n) { return entry.name < n; });
  return it != entries_.end() && it->name == name ? &*it : nullptr;
}

}  // namespace sessa
