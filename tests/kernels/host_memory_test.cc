// FreeHostMemory, from files as the kernel writes them.
#include "kernels/host_memory.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/host_state.h"
#include "tests/temp_folder.h"

namespace sessa {
namespace {

constexpr int64_t kMiB = 1 << 20;

// The files of a machine with 1000 MiB available.
class HostMemoryTest : public testing::Test {
 protected:
  HostMemoryTest() {
    folder_.Write("proc/meminfo", absl::StrCat("MemTotal:     2048000 kB\nMemFree:         100 kB\n",
                                               "MemAvailable: 1024000 kB\nBuffers: 1 kB\n"));
  }
  // A group of version 2; amounts in MiB.
  void Group(const std::string& path, const std::string& limit, int64_t used, int64_t inactive_file,
             int64_t active_file) {
    const std::string folder = "sys/fs/cgroup" + path;
    folder_.Write(folder + "/memory.max", limit + "\n");
    folder_.Write(folder + "/memory.current", absl::StrCat(used * kMiB, "\n"));
    folder_.Write(folder + "/memory.stat",
                  absl::StrCat("anon 7\ninactive_anon 5\ninactive_file ", inactive_file * kMiB,
                               "\nactive_file ", active_file * kMiB, "\nunevictable 0\n"));
  }
  // A group of version 1.
  void OldGroup(const std::string& path, int64_t limit, int64_t used, int64_t cached) {
    const std::string folder = "sys/fs/cgroup/memory" + path;
    folder_.Write(folder + "/memory.limit_in_bytes", absl::StrCat(limit * kMiB, "\n"));
    folder_.Write(folder + "/memory.usage_in_bytes", absl::StrCat(used * kMiB, "\n"));
    folder_.Write(folder + "/memory.stat",
                  absl::StrCat("cache 9\ninactive_file 0\nactive_file 0\ntotal_inactive_file ", cached * kMiB,
                               "\ntotal_active_file ", kMiB, "\n"));
  }
  static std::string Bytes(int64_t mebibytes) { return absl::StrCat(mebibytes * kMiB); }
  void Groups(const std::string& lines) { folder_.Write("proc/self/cgroup", lines); }
  // In MiB; -1: unknown.
  int64_t Free() {
    const std::optional<int64_t> bytes = FreeHostMemory(folder_.path());
    return bytes ? *bytes / kMiB : -1;
  }

  TempFolder folder_;
};

TEST_F(HostMemoryTest, WithoutGroupsTheMachineDecides) { EXPECT_EQ(Free(), 1000); }

TEST_F(HostMemoryTest, NothingToReadIsUnknown) {
  EXPECT_EQ(FreeHostMemory(folder_.path() + "/nowhere"), std::nullopt);
}

TEST_F(HostMemoryTest, CachedFilesAreFree) {
  Groups("0::/\n");
  Group("", Bytes(300), 299, 150, 100);
  EXPECT_EQ(Free(), 251);
}

TEST_F(HostMemoryTest, AGroupWithoutLimitSaysNothing) {
  Groups("0::/\n");
  Group("", "max", 299, 0, 0);
  EXPECT_EQ(Free(), 1000);
}

TEST_F(HostMemoryTest, TheTightestGroupOfTheTreeDecides) {
  Groups("0::/system.slice/sessad.service\n");
  Group("", "max", 900, 0, 0);
  Group("/system.slice", Bytes(800), 100, 0, 50);
  Group("/system.slice/sessad.service", Bytes(400), 100, 20, 30);
  EXPECT_EQ(Free(), 350);
  Group("/system.slice", Bytes(800), 790, 0, 50);
  EXPECT_EQ(Free(), 60);
  Group("/system.slice", Bytes(800), 900, 0, 0);  // the limit was lowered
  EXPECT_EQ(Free(), 0);
}

TEST_F(HostMemoryTest, AGroupNamedAsTheHostSeesItCountsFromTheTop) {
  Groups("0::/docker/12ab\n");
  Group("", Bytes(500), 100, 0, 0);
  EXPECT_EQ(Free(), 400);
}

TEST_F(HostMemoryTest, VersionOne) {
  Groups("9:name=systemd:/\n5:cpu,memory:/a/b\n0::/\n");
  OldGroup("", int64_t{1} << 42, 900, 0);
  OldGroup("/a", 600, 590, 39);
  OldGroup("/a/b", 300, 100, 49);
  EXPECT_EQ(Free(), 50);
  OldGroup("/a", 600, 100, 0);
  EXPECT_EQ(Free(), 250);
}

TEST_F(HostMemoryTest, StrangeLinesAreSkipped) {
  Groups("\n::\n0::\n0::relative\nmemory\n4:memory:\n");
  EXPECT_EQ(Free(), 1000);
}

TEST_F(HostMemoryTest, StateMemoryIsOfferedAndAllocatedByTheSameFigure) {
  Groups("0::/\n");
  Group("", Bytes(64), 60, 20, 0);
  ModelShape shape;
  shape.vocab = 97;
  shape.width = 64;
  shape.layers = 1;
  shape.heads = shape.kv_heads = 1;
  HostState state({shape, StateDtype::kF32}, folder_.path());
  EXPECT_EQ(state.AvailableBytes(), 12 * kMiB);
  const int64_t page = state.layout().page_bytes();
  EXPECT_EQ(state.Allocate(25 * kMiB / page, 0).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(state.Allocate(23 * kMiB / page, 0).ok());
}

}  // namespace
}  // namespace sessa
