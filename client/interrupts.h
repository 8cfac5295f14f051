// Ctrl-C as an event on a thread of its own.
#pragma once

#include <signal.h>

#include <functional>
#include <mutex>
#include <thread>

namespace sessa {

// Takes SIGINT and SIGTERM for the whole process: made in main before any other thread. Without a handler
// they end the program with kExitCancelled. Thread-safe.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // Called once a signal, on the signal thread; must not block for long. nullptr: none.
  void SetHandler(std::function<void()> handler);

 private:
  void Run();

  sigset_t signals_;  // constant after construction
  std::mutex mu_;
  std::function<void()> handler_;  // guarded by mu_, held while it runs
  std::thread thread_;
};

}  // namespace sessa
