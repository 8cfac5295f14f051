// sessad: flags, model, daemon, signals.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "runtime/base/mutex.h"
#include "server/crash_handler.h"
#include "server/daemon.h"
#include "server/flags.h"
#include "server/log.h"
#include "server/model_loader.h"
#include "server/process_stats.h"
#include "server/telemetry.h"
#include "server/version.h"

namespace sessa {
namespace {

constexpr int kExitStart = 1, kExitCutShort = 2, kExitDevice = 3;  // explained in --help
constexpr int64_t kComfortableFiles = 4096;
// Beyond --drain_timeout, which is looked at between two steps: for the step that runs then.
constexpr absl::Duration kDrainGrace = absl::Seconds(3);
constexpr absl::Duration kStopTime = absl::Seconds(3);  // for closing what is open

// Waits for the signals that end the daemon. They are blocked in every thread, so only Wait sees them.
class EndSignals {
 public:
  EndSignals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }
  // The signal that came within the time; 0: none.
  int Wait(absl::Duration timeout) {
    const timespec time = absl::ToTimespec(timeout);
    const int signal = sigtimedwait(&set_, nullptr, &time);
    return signal > 0 ? signal : 0;
  }

 private:
  sigset_t set_;
};

// Set by the core once nothing runs.
class Latch {
 public:
  void Set() {
    MutexLock lock(&mutex_);
    set_ = true;
  }
  bool IsSet() {
    MutexLock lock(&mutex_);
    return set_;
  }

 private:
  Mutex mutex_;
  bool set_ ABSL_GUARDED_BY(mutex_) = false;
};

std::string Mebibytes(int64_t bytes) {
  return absl::StrFormat("%.1fMiB", static_cast<double>(bytes) / (1 << 20));
}

void LogStart(const ServedModel& model, const DaemonOptions& options) {
  const v1::Model& m = model.description;
  Log(LogLevel::kInfo, "model",
      {{"name", m.name()},
       {"folder", options.model_dir},
       {"parameters", absl::StrCat(m.parameters())},
       {"weights", m.weight_dtype()},
       {"max_context", absl::StrCat(m.max_context())},
       {"trained_context", absl::StrCat(m.trained_context())},
       {"tokenizer", m.has_tokenizer() ? "yes" : "no: token ids only"},
       {"fingerprint", m.fingerprint()}});
  if (!model.backend_note.empty()) Log(LogLevel::kInfo, "backend choice", {{"note", model.backend_note}});
  Log(LogLevel::kInfo, "backend", {{"name", m.backend()}, {"description", m.backend_description()}});
  const CoreOptions& core = model.core_options;
  Log(LogLevel::kInfo, "state memory",
      {{"size", Mebibytes(model.state_bytes)},
       {"dtype", m.state_dtype()},
       {"pages", absl::StrCat(core.state_pages)},
       {"open_pages", absl::StrCat(core.open_pages)},
       {"tokens", absl::StrCat(int64_t{core.state_pages} * kPageTokens)},
       {"bytes_per_token", absl::StrCat(m.state_bytes_per_token())},
       {"note", "touched as it is used"}});
  if (m.trained_context() > 0 && m.max_context() > m.trained_context()) {
    Log(LogLevel::kWarning, "--max_context is longer than the model was trained for",
        {{"max_context", absl::StrCat(m.max_context())},
         {"trained_context", absl::StrCat(m.trained_context())}});
  }
}

void CheckOpenFiles() {
  const int64_t files = RaiseOpenFileLimit();
  if (files >= kComfortableFiles) return;
  Log(LogLevel::kWarning, "few files may be open; every connection takes one: raise RLIMIT_NOFILE",
      {{"limit", absl::StrCat(files)}});
}

int FailStart(const absl::Status& status) {
  Log(LogLevel::kError, "sessad cannot start", {{"error", std::string(status.message())}});
  return kExitStart;
}

// Returns when a signal came (true) or the device failed.
bool ServeUntilSignal(EndSignals* signals, const Telemetry& telemetry) {
  while (telemetry.failure().ok()) {
    if (const int signal = signals->Wait(absl::Milliseconds(200)); signal != 0) {
      Log(LogLevel::kInfo, "draining", {{"signal", strsignal(signal)}});
      return true;
    }
  }
  return false;
}

// The exit code so far.
int Drain(Daemon* daemon, EndSignals* signals, absl::Duration timeout) {
  auto drained = std::make_shared<Latch>();
  daemon->Drain(timeout, [drained] { drained->Set(); });
  const absl::Time give_up = absl::Now() + timeout + kDrainGrace;
  while (!drained->IsSet()) {
    if (signals->Wait(absl::Milliseconds(20)) != 0) {
      Log(LogLevel::kWarning, "second signal: exiting before the drain is over");
      _exit(kExitCutShort);
    }
    if (absl::Now() > give_up) {
      Log(LogLevel::kWarning, "the step that runs does not end: exiting before the drain is over");
      return kExitCutShort;
    }
  }
  return 0;
}

// Closes what is open. Ends the process itself, with `code` or at a signal, if that takes too long: a step
// may hang, and so may whatever a library does.
void Stop(std::unique_ptr<Daemon> daemon, EndSignals* signals, int code) {
  std::thread([signals, code] {
    const int signal = signals->Wait(kStopTime);
    Log(LogLevel::kWarning, signal != 0 ? "second signal: exiting" : "something does not close: exiting");
    _exit(signal != 0 && code == 0 ? kExitCutShort : code);
  }).detach();
  daemon.reset();
  Log(LogLevel::kInfo, "stopped");
}

int Run() {
  auto options = ValidateFlags();
  if (!options.ok()) {
    std::cerr << "sessad: " << options.status().message() << "\n";
    return kExitStart;
  }
  StartLogging(options->log_format == "json");
  CaptureLibraryMessages();
  static EndSignals signals;  // before the first thread, which inherits the mask
  const absl::Time start = absl::Now();
  Log(LogLevel::kInfo, "sessad",
      {{"version", kVersion}, {"commit", kCommit}, {"pid", absl::StrCat(getpid())}});
  CheckOpenFiles();

  static Telemetry telemetry;
  auto model = LoadServedModel(*options, telemetry.Hooks(), Clock::Real());
  if (!model.ok()) return FailStart(model.status());
  LogStart(*model, *options);
  auto daemon = Daemon::Start(*options, *std::move(model), &telemetry);
  if (!daemon.ok()) return FailStart(daemon.status());
  Log(LogLevel::kInfo, "listening",
      {{"grpc", (*daemon)->grpc_address()},
       {"http", (*daemon)->metrics_address().empty() ? "none"
                                                     : absl::StrCat("http://", (*daemon)->metrics_address())},
       {"start_took", absl::FormatDuration(absl::Now() - start)}});

  int code = 0;
  const bool signalled = ServeUntilSignal(&signals, telemetry);
  if (signalled) code = Drain(daemon->get(), &signals, options->drain_timeout);
  if (const absl::Status failure = telemetry.failure(); !failure.ok()) {  // it may fail during the drain, too
    Log(LogLevel::kError, "the device failed: ending", {{"error", std::string(failure.message())}});
    // Its turns have ended with errors; give clients and the health service a moment to be heard.
    if (!signalled) absl::SleepFor(absl::Milliseconds(500));
    code = kExitDevice;
  }
  Stop(*std::move(daemon), &signals, code);
  return code;
}

}  // namespace
}  // namespace sessa

int main(int argc, char** argv) {
  sessa::InstallCrashHandler(argv[0]);
  signal(SIGPIPE, SIG_IGN);
  sessa::ParseFlags(argc, argv);
  return sessa::Run();
}
