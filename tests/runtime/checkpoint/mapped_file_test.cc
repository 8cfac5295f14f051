#include "runtime/checkpoint/mapped_file.h"

#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/temp_folder.h"

namespace sessa {
namespace {

// A file that can be opened and not be read: nothing is mapped at address 0.
constexpr char kUnreadable[] = "/proc/self/mem";
constexpr size_t kMiB = 1 << 20;

absl::Status ReadThroughFile(const std::string& path, size_t size) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const absl::Status status = ReadThrough(fd, path, size);
  close(fd);
  return status;
}

TEST(MappedFileTest, HoldsTheBytes) {
  const TempFolder folder;
  std::string bytes(3 * kMiB + 5, 'a');
  bytes.back() = 'z';
  const auto file = MappedFile::Open(folder.Write("file", bytes));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->bytes(), bytes);
  EXPECT_EQ((*MappedFile::Open(folder.Write("empty", "")))->bytes(), "");
}

TEST(MappedFileTest, AFileCutWhileItIsReadIsNamed) {
  const TempFolder folder;
  const std::string path = folder.Write("file", std::string(2 * kMiB + 5, 'a'));
  EXPECT_TRUE(ReadThroughFile(path, 2 * kMiB + 5).ok());
  const absl::Status status = ReadThroughFile(path, 4 * kMiB);  // what it was when it was opened
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(),
            absl::StrCat(path, ": ends at byte 2097157 of 4194304: it was cut while it was read"));
}

TEST(MappedFileTest, WhatTheDiskCannotGiveIsNamed) {
  for (const absl::Status& status :
       {ReadThroughFile(kUnreadable, kMiB), ReadSmallFile(kUnreadable, kMiB).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(status.message(), "/proc/self/mem: cannot be read at byte 0: Input/output error");
  }
}

TEST(ReadSmallFileTest, ReadsToTheEndUpToTheLimit) {
  const TempFolder folder;
  for (const size_t size : {size_t{0}, size_t{3}, kMiB - 1, kMiB, 2 * kMiB + 1}) {
    const std::string bytes(size, 'a'), path = folder.Write("file", bytes);
    EXPECT_EQ(*ReadSmallFile(path, size), bytes);
    if (size == 0) continue;
    EXPECT_EQ(ReadSmallFile(path, size - 1).status().message(),
              absl::StrCat(path, ": ", size, " bytes; at most ", size - 1, " are accepted"));
  }
  // Its size is said to be 0.
  EXPECT_THAT(*ReadSmallFile("/proc/self/status", kMiB), testing::HasSubstr("Name:"));
  EXPECT_EQ(ReadSmallFile("/proc/self/status", 10).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sessa
