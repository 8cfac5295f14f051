// A system that has no more threads, for tests. Include it in one source of a test program: it replaces
// pthread_create there.
#pragma once

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>

namespace sessa {

// How many more threads may start; while negative, any number.
inline std::atomic<int> threads_allowed{-1};

// While one lives, only the next `threads` threads of the process start.
class ScarceThreads {
 public:
  explicit ScarceThreads(int threads) { threads_allowed = threads; }
  ~ScarceThreads() { threads_allowed = -1; }
  ScarceThreads(const ScarceThreads&) = delete;
  ScarceThreads& operator=(const ScarceThreads&) = delete;
};

}  // namespace sessa

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*),
                              void* argument) {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const Create create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  if (sessa::threads_allowed == 0) return EAGAIN;
  if (sessa::threads_allowed > 0) --sessa::threads_allowed;
  return create(thread, attributes, body, argument);
}
