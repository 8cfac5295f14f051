#include "runtime/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace sessa {
namespace {

constexpr size_t kPiece = 128 << 10;  // bytes of one read: they stay in a core's cache

absl::Status SystemError(const std::string& path, absl::string_view what) {
  return absl::ErrnoToStatus(errno, absl::StrCat(path, ": ", what));
}

// Reads up to `size` bytes from `offset` on; fewer than one only at the end of the file.
absl::StatusOr<size_t> ReadAt(int fd, const std::string& path, size_t offset, char* out, size_t size) {
  for (;;) {
    const ssize_t count = pread(fd, out, size, static_cast<off_t>(offset));
    if (count >= 0) return static_cast<size_t>(count);
    if (errno == EINTR) continue;
    return absl::DataLossError(
        absl::StrCat(path, ": cannot be read at byte ", offset, ": ", std::strerror(errno)));
  }
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

// Opens a regular file; `*size` is what the file system says.
absl::StatusOr<std::unique_ptr<Descriptor>> OpenRegular(const std::string& path, size_t* size) {
  // O_NONBLOCK: a FIFO must not hang us
  auto file = std::make_unique<Descriptor>(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file->get() < 0) return SystemError(path, "cannot be opened");
  struct stat info;
  if (fstat(file->get(), &info) != 0) return SystemError(path, "cannot be examined");
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  *size = static_cast<size_t>(info.st_size);
  return file;
}

}  // namespace

absl::Status ReadThrough(int fd, const std::string& path, size_t size) {
  const auto piece = std::make_unique<char[]>(kPiece);
  for (size_t offset = 0; offset < size;) {
    const auto count = ReadAt(fd, path, offset, piece.get(), std::min(kPiece, size - offset));
    if (!count.ok()) return count.status();
    if (*count == 0) {
      return absl::DataLossError(
          absl::StrCat(path, ": ends at byte ", offset, " of ", size, ": it was cut while it was read"));
    }
    offset += *count;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  size_t size = 0;
  const auto file = OpenRegular(path, &size);
  if (!file.ok()) return file.status();
  if (size == 0) return std::unique_ptr<MappedFile>(new MappedFile(nullptr, 0));
  if (const absl::Status read = ReadThrough((*file)->get(), path, size); !read.ok()) return read;
  void* const data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, (*file)->get(), 0);
  if (data == MAP_FAILED) return SystemError(path, "cannot be mapped");
  return std::unique_ptr<MappedFile>(new MappedFile(data, size));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t limit) {
  size_t size = 0;
  const auto file = OpenRegular(path, &size);
  if (!file.ok()) return file.status();
  std::string text;
  for (bool end = false; !end && size <= limit;) {  // to its end, whatever its size was said to be
    const size_t offset = text.size();
    text.resize(offset + kPiece);
    const auto count = ReadAt((*file)->get(), path, offset, text.data() + offset, kPiece);
    if (!count.ok()) return count.status();
    end = *count == 0;
    text.resize(offset + *count);
    size = std::max(size, text.size());
  }
  if (size <= limit) return text;
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": ", size, " bytes; at most ", limit, " are accepted"));
}

bool FileExists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

}  // namespace sessa
