// Says where the process crashed, on stderr, before it dies of the signal.
#pragma once

namespace sessa {

// Handles SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT. Call once, early in main. Not Abseil's handler: that
// one follows frame pointers, which optimised code and the C library do not have.
void InstallCrashHandler(const char* program);

}  // namespace sessa
