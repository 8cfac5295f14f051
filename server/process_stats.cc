#include "server/process_stats.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>

#include "absl/time/clock.h"

namespace sessa {
namespace {

const absl::Time kStart = absl::Now();

int64_t CountEntries(const char* folder) {
  DIR* dir = opendir(folder);
  if (dir == nullptr) return 0;
  int64_t entries = -2;  // "." and ".."
  while (readdir(dir) != nullptr) ++entries;
  closedir(dir);
  return entries;
}

int64_t ResidentBytes() {
  FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  long total = 0, resident = 0;
  const int read = std::fscanf(file, "%ld %ld", &total, &resident);
  std::fclose(file);
  return read == 2 ? resident * sysconf(_SC_PAGESIZE) : 0;
}

}  // namespace

ProcessStats ReadProcessStats() {
  ProcessStats stats;
  struct rusage usage = {};
  if (getrusage(RUSAGE_SELF, &usage) == 0) {
    stats.cpu_time = absl::DurationFromTimeval(usage.ru_utime) + absl::DurationFromTimeval(usage.ru_stime);
  }
  stats.resident_bytes = ResidentBytes();
  stats.open_files = CountEntries("/proc/self/fd") - 1;  // the folder itself
  stats.threads = CountEntries("/proc/self/task");
  struct rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) stats.max_files = static_cast<int64_t>(limit.rlim_cur);
  return stats;
}

absl::Time ProcessStartTime() { return kStart; }

int64_t RaiseOpenFileLimit() {
  struct rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  const rlim_t before = limit.rlim_cur;
  limit.rlim_cur = limit.rlim_max;
  return static_cast<int64_t>(setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_max : before);
}

}  // namespace sessa
