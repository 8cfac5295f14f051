#include "client/interrupts.h"

#include <pthread.h>
#include <unistd.h>

#include <utility>

#include "client/rpc_errors.h"

namespace sessa {
namespace {

constexpr int kStopSignal = SIGUSR1;

}  // namespace

Interrupts::Interrupts() {
  sigemptyset(&signals_);
  for (int signal : {SIGINT, SIGTERM, kStopSignal}) sigaddset(&signals_, signal);
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  thread_ = std::thread([this] { Run(); });
}

Interrupts::~Interrupts() {
  pthread_kill(thread_.native_handle(), kStopSignal);
  thread_.join();
}

void Interrupts::SetHandler(std::function<void()> handler) {
  std::lock_guard<std::mutex> lock(mu_);
  handler_ = std::move(handler);
}

void Interrupts::Run() {
  while (true) {
    int signal = 0;
    sigwait(&signals_, &signal);
    if (signal == kStopSignal) return;
    std::lock_guard<std::mutex> lock(mu_);
    if (!handler_) _exit(kExitCancelled);
    handler_();
  }
}

}  // namespace sessa
