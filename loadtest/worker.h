// One thread of load: an event loop over a gRPC completion queue, so that hundreds of streams cost one
// thread.
#pragma once

#include <grpcpp/completion_queue.h>

#include <atomic>
#include <functional>
#include <memory>
#include <queue>
#include <unordered_set>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "loadtest/calls.h"
#include "loadtest/random.h"
#include "loadtest/recorder.h"
#include "loadtest/scenario.h"

namespace sessa {

// What the workers of a run share. Constant during it, but for the counter.
struct WorkerSetup {
  const Scenario* scenario = nullptr;
  const v1::Model* model = nullptr;
  absl::Time start;                             // of the run
  std::atomic<int64_t>* turns_begun = nullptr;  // of all workers
  const std::atomic<int>* stops = nullptr;      // as RunScenario has it
};

// Everything in it belongs to the thread that calls Run.
class Worker {
 public:
  // `users` of the closed loop and `rate` of the open one are this worker's shares; `first_user` numbers
  // them.
  Worker(const WorkerSetup& setup, std::vector<Connection*> connections, int index, int users, int first_user,
         double rate);
  ~Worker();

  void Run();  // until the scenario is over and every call has ended
  const Recorder& recorder() const { return recorder_; }

 private:
  struct Timer {
    absl::Time at;
    uint64_t order;  // of timers at the same time
    std::function<void()> action;
    bool operator>(const Timer& other) const { return at != other.at ? at > other.at : order > other.order; }
  };

  void At(absl::Time at, std::function<void()> action);
  void RunTimers();
  void Arrive(absl::Time scheduled);
  void NewSession(absl::Time scheduled);
  void BeginTurn(std::shared_ptr<LoadSession> session, absl::Time scheduled);
  void OnTurnEnd(TurnCall* call, const TurnCall::Outcome& outcome);
  void EndSession(const std::shared_ptr<LoadSession>& session, absl::Duration back_off);
  bool MayBegin();      // the scenario goes on; counts the turn
  bool IsOver() const;  // no turn begins any more
  CallHost host() { return {.queue = &queue_, .recorder = &recorder_, .start = setup_.start}; }

  const WorkerSetup setup_;
  const Scenario& scenario_;
  const std::vector<Connection*> connections_;
  const int users_;
  const int first_user_;
  const double rate_;
  Random random_;
  Recorder recorder_;
  grpc::CompletionQueue queue_;
  std::priority_queue<Timer, std::vector<Timer>, std::greater<Timer>> timers_;
  uint64_t timers_made_ = 0;
  std::unordered_set<TurnCall*> turns_;  // in flight
  int calls_ = 0;                        // in flight, deletions included
  size_t next_connection_ = 0;
};

}  // namespace sessa
