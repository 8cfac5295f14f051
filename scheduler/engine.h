// The engine: owns every session, the state arena and the plan; inbox -> schedule -> launch -> collect ->
// publish.
//
// One thread runs it; others post messages. It waits for the device and its inbox only.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/base/clock.h"
#include "runtime/base/executor.h"
#include "runtime/base/inbox.h"
#include "runtime/base/mutex.h"
#include "runtime/model.h"
#include "runtime/state_arena.h"
#include "scheduler/chunk_governor.h"
#include "scheduler/core.h"
#include "scheduler/emitter.h"
#include "scheduler/plan.h"
#include "scheduler/principals.h"
#include "scheduler/session_store.h"
#include "scheduler/turn.h"

namespace sessa {

// A turn on its way in.
struct Submission {
  uint64_t turn_id = 0;  // ascending
  std::shared_ptr<const TurnRequest> request;
  std::shared_ptr<TurnStream> stream;
  absl::Time submitted;
  std::shared_ptr<std::atomic<bool>> prompt_unwanted;  // see Turn
};

class Engine {
 public:
  // `emitter` and `hooks` outlive the engine, the clock too.
  Engine(const CoreOptions& options, std::unique_ptr<Ops> ops, Emitter* emitter, const CoreHooks* hooks,
         const Clock* clock, std::function<std::string()> make_session_id);
  ~Engine();

  // --- any thread ---
  // Runs `task` on the engine thread, in order of posting. Tasks posted after Stop may be dropped.
  void Post(Task task);
  CoreStatus Status() const;
  // False once max_waiting turns wait; otherwise counts one more, until it runs or ends.
  bool TryReserveWaiting();
  void ReleaseWaiting() { waiting_.fetch_sub(1, std::memory_order_relaxed); }
  // The loop, until Stop; then every turn ends with UNAVAILABLE.
  void Run();
  void Stop();

  // --- engine thread: messages ---
  void Submit(Submission submission);
  // The prompt of a turn that was submitted as text.
  void PromptEncoded(uint64_t turn_id, absl::StatusOr<std::vector<int32_t>> tokens);
  void Cancel(const std::string& principal, const std::string& request_id, absl::Status error, absl::Time at);
  void CancelOnSession(const std::string& principal, const std::string& session_id, absl::Time at);
  void SetPaused(const std::string& principal, const std::string& request_id, bool paused);
  void ApplyVerdict(const TextVerdict& verdict);
  absl::StatusOr<SessionInfo> CreateSession(const std::string& principal);
  absl::StatusOr<SessionInfo> GetSession(const std::string& principal, const std::string& id);
  std::vector<SessionInfo> ListSessions(const std::string& principal, const std::string& after_id,
                                        int32_t limit);
  void DeleteSession(const std::string& principal, const std::string& id,
                     std::function<void(absl::Status)> done);
  void Drain(absl::Time deadline, std::function<void()> done);
  void EndEverything(const absl::Status& status);

  // --- engine thread: the loop ---
  // Handles the inbox and the clock, launches at most one step and collects at most one. False: there is
  // nothing to do before a message or NextWake().
  bool RunOnce();
  absl::Time NextWake() const;
  // Free + used == total is always so; this finds pages whose owners do not add up.
  int32_t CountOrphanPages() const;
  bool idle() const { return turns_.empty() && launched_.empty(); }

 private:
  // What a step does for one sample.
  struct LaunchedWork {
    std::shared_ptr<Turn> turn;  // keeps parameters alive until the step is collected
    Sample* sample;
    int64_t start;
    int32_t rows;
    int32_t scored = 0;    // outputs that are prompt log-probabilities; first among the segment's
    bool samples = false;  // one more output: a token to draw
    bool ends = false;     // the sample is over with this step
  };
  struct LaunchedStep {
    StepBatch batch;
    std::vector<LaunchedWork> work;
    absl::Time launched;
  };
  struct Candidate {  // what PlanInput::sequences[i] stands for
    Turn* turn;
    Sample* sample;  // nullptr: the turn did not start
  };

  // engine_admission.cc
  absl::Status ResolveSession(Turn* turn);
  // Gives the turn a session of its own with the tokens of `session`, whose pages it shares.
  void Branch(Turn* turn, Session* session);
  void PromptReady(Turn* turn, absl::StatusOr<std::vector<int32_t>> tokens);
  absl::Status CheckPrompt(Turn* turn, std::vector<int32_t> tokens);
  void StartTurn(Turn* turn);
  // Tokens that the samples of a turn with n > 1 share: all of the prompt but its last.
  static int64_t ForkPoint(const Turn* turn) {
    return turn->start + static_cast<int64_t>(turn->prompt.size()) - 1;
  }
  void MakeForks(Turn* turn);

  // engine_ends.cc, engine_sessions.cc
  // No more steps for the sample. Its tokens stay as they are; the state beyond them is given up.
  void EndSample(Turn* turn, Sample* sample, FinishReason reason);
  void CloseSample(Turn* turn, Sample* sample);
  void EndTurn(Turn* turn, FinishReason reason);  // ends what is not ended yet
  void FailTurn(Turn* turn, absl::Status error);
  void FinishTurn(Turn* turn);
  void ReleaseTurnSession(Turn* turn);
  void RemoveSession(Session* session);
  void LosePlace(Sample* sample);
  void ExpireTurns(absl::Time now);
  void ExpireSessions(absl::Time now);
  void CheckDrained();
  void Drained();
  void CallEmitter(std::function<void()> run);  // there, after what was emitted before
  static SessionInfo Describe(const Session& session);
  void CancelTurn(Turn* turn, absl::Status error, absl::Time at);
  Turn* FindTurn(const std::string& principal, const std::string& request_id) const;

  // engine_plan.cc
  int64_t KnownLength(const Turn* turn, const Sample* sample) const;
  bool MayRunAhead(const Turn* turn, const Sample* sample) const;
  void FillPlanInput(absl::Time now);
  void AddCandidate(Turn* turn, Sample* sample);
  void AddIdle();
  void AgePriorities(absl::Time now);
  void ApplyPlan();

  // engine_steps.cc
  bool LaunchStep(absl::Time now);
  void BuildBatch(LaunchedStep* step);
  void AddOutputs(Turn* turn, Sample* sample, int64_t start, int32_t rows, LaunchedWork* work,
                  std::vector<OutputRow>* outputs);
  void CollectStep();
  void Publish(LaunchedStep& step, StepResult& result, absl::Time now);
  void AppendSampled(Turn* turn, Sample* sample, OutputResult& result, absl::Time now);
  void NumbersFailed(Turn* turn, Sample* sample);
  void DeviceFailed(const absl::Status& error);

  void Emit(Turn* turn, decltype(EmitterEvent::what) what) {
    outbox_.push_back({turn->stream.get(), std::move(what)});
  }
  void Flush();
  void UpdateStatus();

  // Constant after construction.
  const CoreOptions options_;
  const int64_t context_limit_;  // tokens of a session: max_context, or what the whole arena holds
  Emitter* const emitter_;
  const CoreHooks* const hooks_;
  const Clock* const clock_;

  // Any thread.
  Inbox<Task> inbox_;
  std::atomic<bool> stopping_{false};
  std::atomic<int32_t> waiting_{0};
  std::atomic<int64_t> busy_since_{0};  // nanoseconds of the clock; 0: nothing to do
  mutable Mutex status_mutex_;
  CoreStatus status_ ABSL_GUARDED_BY(status_mutex_);

  // Engine thread only.
  Model model_;
  StateArena arena_;
  SessionStore sessions_;
  Principals principals_;
  ChunkGovernor governor_;
  std::map<int32_t, absl::Time>
      waiting_since_;  // priorities that wait: since when none of theirs was admitted
  std::map<uint64_t, std::shared_ptr<Turn>> turns_;  // by arrival
  std::map<std::pair<std::string, std::string>, Turn*> turns_by_request_;
  std::vector<int32_t> free_slots_;
  std::deque<std::unique_ptr<LaunchedStep>> launched_;  // oldest first
  std::vector<std::unique_ptr<LaunchedStep>> spare_steps_;
  PlanInput plan_input_;
  std::vector<Candidate> candidates_;  // aligned with plan_input_.sequences
  bool shares_pages_ = false;          // some turn's sequences may hold pages that others hold, too
  std::vector<Session*> idle_;         // aligned with plan_input_.idle
  StepPlan plan_;
  std::vector<Task> tasks_;
  std::vector<EmitterEvent> outbox_;
  std::vector<PageCopy> copies_;
  std::vector<OutputRow> outputs_;
  std::vector<std::shared_ptr<Turn>>
      finished_turns_;  // kept until the end of RunOnce, for who still points to them
  CoreStatus totals_;   // the counters
  absl::Time orphans_counted_ = absl::InfinitePast();
  int32_t running_ = 0;  // turns that have started
  absl::Time next_deadline_ = absl::InfiniteFuture();
  bool draining_ = false;
  absl::Time drain_deadline_ = absl::InfiniteFuture();
  std::vector<std::function<void()>> on_drained_;
  bool asking_emitter_ = false;  // whether its sinks submit more
  absl::Status failure_;         // not OK: the device has failed
};

}  // namespace sessa
