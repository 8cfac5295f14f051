// The core put together. Its parts are reachable so that the simulator can run them on one thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/executor.h"
#include "scheduler/core.h"
#include "scheduler/emitter.h"
#include "scheduler/engine.h"

namespace sessa {

// What production and the simulator do differently.
struct CoreSeams {
  Executor* tokenizer_pool = nullptr;  // outlives the core
  std::function<std::string()> make_session_id;
};

class CoreImpl : public Core {
 public:
  CoreImpl(const CoreOptions& options, std::unique_ptr<Ops> ops, std::shared_ptr<const Tokenizer> tokenizer,
           CoreHooks hooks, const Clock* clock, CoreSeams seams);
  ~CoreImpl() override;

  // Starts the engine and the emitter thread. Without it, whoever owns the core runs both by RunOnce.
  void Start();

  absl::Status Submit(std::unique_ptr<TurnRequest> request) override;
  void Cancel(const Principal& principal, const std::string& request_id, absl::Status error) override;
  void CancelOnSession(const Principal& principal, const std::string& session_id) override;
  void SetPaused(const Principal& principal, const std::string& request_id, bool paused) override;
  void CreateSession(const Principal& principal,
                     std::function<void(absl::StatusOr<SessionInfo>)> done) override;
  void GetSession(const Principal& principal, const std::string& session_id,
                  std::function<void(absl::StatusOr<SessionInfo>)> done) override;
  void ListSessions(const Principal& principal, const std::string& after_id, int32_t limit,
                    std::function<void(std::vector<SessionInfo>)> done) override;
  void DeleteSession(const Principal& principal, const std::string& session_id,
                     std::function<void(absl::Status)> done) override;
  void PostTextWork(TextUse use, int64_t bytes, Task work) override;
  void Drain(absl::Time deadline, std::function<void()> done) override;
  CoreStatus Status() const override;

  Engine& engine() { return engine_; }
  Emitter& emitter() { return emitter_; }

 private:
  absl::Status Check(const TurnRequest& request) const;

  // Constant after construction.
  const CoreOptions options_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  const CoreHooks hooks_;
  const Clock* const clock_;

  TextQueue text_queue_;
  std::atomic<uint64_t> next_turn_id_{1};
  std::atomic<bool> draining_{false};
  Emitter emitter_;
  Engine engine_;
  std::thread engine_thread_, emitter_thread_;
};

}  // namespace sessa
