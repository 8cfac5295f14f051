// What the kernel says about this process.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace sessa {

struct ProcessStats {
  absl::Duration cpu_time;  // user and system, all threads
  int64_t resident_bytes = 0;
  int64_t open_files = 0;
  int64_t max_files = 0;  // RLIMIT_NOFILE
  int64_t threads = 0;
};

// Reads /proc/self; a number that cannot be read is 0. Thread-safe.
ProcessStats ReadProcessStats();

// When this process object was made (at program start). Thread-safe.
absl::Time ProcessStartTime();

// Raises the limit of open files to the hard limit and returns it.
int64_t RaiseOpenFileLimit();

}  // namespace sessa
