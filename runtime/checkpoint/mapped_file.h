// A file's bytes, mapped read-only.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sessa {

// Constant after construction. The file must not be truncated while it is mapped: reading beyond its end then
// raises SIGBUS. Replace a checkpoint by renaming a new folder into place.
class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED, INVALID_ARGUMENT (no regular file) or UNAVAILABLE, naming the file.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  absl::string_view bytes() const { return absl::string_view(static_cast<const char*>(data_), size_); }

 private:
  MappedFile(void* data, size_t size) : data_(data), size_(size) {}

  void* const data_;  // nullptr for an empty file
  const size_t size_;
};

// The whole of a small text file. INVALID_ARGUMENT when it is larger than `limit` bytes.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t limit);

bool FileExists(const std::string& path);

}  // namespace sessa
