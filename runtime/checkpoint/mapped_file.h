// A file's bytes, mapped read-only or read.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sessa {

// Constant after construction. Open reads the whole file once, so that what the disk cannot give, or a file
// still being written, is an error and no signal. Afterwards the file must not be truncated as long as it is
// mapped: reading beyond its end raises SIGBUS. Replace a checkpoint by renaming a new folder into place.
class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED and the like, INVALID_ARGUMENT (no regular file), or DATA_LOSS with the
  // offset that cannot be read; all name the file.
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

// The whole of a small file, read, not mapped. Errors as MappedFile::Open's; INVALID_ARGUMENT also when it is
// larger than `limit` bytes.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t limit);

// Reads `size` bytes of an open file and forgets them; they are in the page cache then. DATA_LOSS as above.
// Internal to this folder.
absl::Status ReadThrough(int fd, const std::string& path, size_t size);

bool FileExists(const std::string& path);

}  // namespace sessa
