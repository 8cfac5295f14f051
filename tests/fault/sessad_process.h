// A sessad of its own process, for tests that kill it or measure it.
#pragma once

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "runtime/base/mutex.h"

namespace sessa {

class SessadProcess {
 public:
  // Starts build/bin/sessad on free ports (or on those in `flags`) and waits until it listens or has ended.
  // It is killed when the calling thread ends, however that comes about: a test that is killed leaves none
  // behind.
  explicit SessadProcess(std::vector<std::string> flags);
  ~SessadProcess();  // SIGKILL, if it still runs

  bool listening() const { return !grpc_address_.empty(); }
  const std::string& grpc_address() const { return grpc_address_; }
  std::string log() const;  // what it wrote so far

  void Signal(int signal) const;
  // The exit code, or 128 + the signal that ended it; -1 when it still runs after the time.
  int Wait(absl::Duration timeout = absl::Minutes(2));
  int pid() const { return pid_; }
  int64_t resident_bytes() const;

 private:
  void ReadLog(int fd);

  int pid_ = -1;
  int exit_code_ = -1;
  std::string grpc_address_;
  std::thread reader_;
  mutable Mutex mutex_;
  std::string log_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sessa
