#include "server/crash_handler.h"

#include <execinfo.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "absl/debugging/symbolize.h"

namespace sessa {
namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
constexpr int kMaxFrames = 64;
alignas(16) char g_stack[64 << 10];  // the handler's own: the thread's may have overflowed

// In a signal handler only what POSIX calls async-signal-safe may be used; write and snprintf of plain
// numbers into a local buffer are good enough, and the process is lost anyway.
void Write(const char* text) {
  if (write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
}

void OnCrash(int signal, siginfo_t* info, void*) {
  char line[512];
  std::snprintf(line, sizeof line, "*** sessad crashed: SIG%s at address %p; stack:\n", sigabbrev_np(signal),
                info->si_addr);
  Write(line);
  void* frames[kMaxFrames];
  const int count = backtrace(frames, kMaxFrames);
  for (int i = 0; i < count; ++i) {
    char name[400];
    // A return address may be the first byte of the next function.
    const bool known = absl::Symbolize(static_cast<char*>(frames[i]) - 1, name, sizeof name);
    std::snprintf(line, sizeof line, "    @ %18p  %s\n", frames[i], known ? name : "(unknown)");
    Write(line);
  }
  raise(signal);  // SA_RESETHAND: now with its default effect
}

}  // namespace

void InstallCrashHandler(const char* program) {
  absl::InitializeSymbolizer(program);
  void* frame = nullptr;
  backtrace(&frame, 1);  // loads the unwinder, which a handler must not do
  stack_t stack = {};
  stack.ss_sp = g_stack;
  stack.ss_size = sizeof g_stack;
  sigaltstack(&stack, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = OnCrash;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND;
  for (const int signal : kSignals) sigaction(signal, &action, nullptr);
}

}  // namespace sessa
