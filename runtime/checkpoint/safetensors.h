// A safetensors file: 8 bytes of header length (little-endian), a JSON header, the tensors' bytes. Read as
// strictly as the format is written down: tensors cover the data exactly, without overlap, gap or rest.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/checkpoint/mapped_file.h"

namespace sessa {

inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;  // bytes

struct SafetensorsEntry {
  std::string name;
  std::string dtype;            // as in the file: "F32", "BF16", "I64", ...
  std::vector<int64_t> dims;    // [] for a scalar
  uint64_t begin = 0, end = 0;  // byte range within the data
  absl::string_view bytes;      // of the tensor, row-major, little-endian; not necessarily aligned
};

// The entries of a file held in memory, sorted by name; their bytes point into `contents`. Errors are
// INVALID_ARGUMENT naming file (as given), tensor and reason.
absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensors(absl::string_view file,
                                                               absl::string_view contents);

// Constant after construction; the entries' bytes live as long as the file.
class SafetensorsFile {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);

  const std::string& path() const { return path_; }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // sorted by name
  const SafetensorsEntry* Find(absl::string_view name) const;                // nullptr: there is none

 private:
  SafetensorsFile(std::string path, std::unique_ptr<MappedFile> file, std::vector<SafetensorsEntry> entries)
      : path_(std::move(path)), file_(std::move(file)), entries_(std::move(entries)) {}

  const std::string path_;
  const std::unique_ptr<MappedFile> file_;
  const std::vector<SafetensorsEntry> entries_;
};

}  // namespace sessa
