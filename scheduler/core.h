// The core as the server sees it: turns and sessions go in, events come out. Owns the tokenizer pool, the
// engine thread and the emitter thread.
//
// A turn: Submit -> tokenizer pool -> engine inbox -> steps -> emitter -> TokenSink.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/ops.h"
#include "runtime/base/clock.h"
#include "runtime/tokenizer.h"
#include "scheduler/request.h"
#include "scheduler/text_queue.h"

namespace sessa {

// Limits. The defaults are the daemon's flags' defaults.
struct CoreOptions {
  ModelShape shape;
  int32_t bos_token = -1, eos_token = -1;  // -1: the model has none
  int64_t max_context = 2048;              // tokens of a session
  int32_t max_batch_tokens = 512;          // rows of a step
  int32_t max_batch_sessions = 256;        // sessions (samples) of a step
  int32_t max_waiting = 1024;              // turns submitted but not running; more are shed
  int32_t state_pages = 0;                 // of the arena (Ops::AllocateState was called with it)
  int32_t open_pages = 0;
  int32_t tokenizer_threads = 2;
  int32_t max_sessions = 100000;                      // kept sessions, their token ids in memory
  absl::Duration priority_aging = absl::Seconds(10);  // a priority that waits that long counts as one more
  absl::Duration idle_state_ttl = absl::Minutes(10);  // an idle session's pages go back after that
  absl::Duration idle_session_ttl = absl::Hours(24);  // an idle session is forgotten after that
};

struct SessionInfo {
  std::string id;
  int64_t position = 0;            // tokens
  int64_t cached_tokens = 0;       // of which the state is in pages
  bool busy = false;               // a turn runs or waits
  std::string running_request_id;  // of that turn
  absl::Time created, last_used;
};

// Snapshot for WatchStatus, /metrics and health. All counts are of this moment, totals since the start.
struct CoreStatus {
  int32_t running = 0, waiting = 0;               // turns
  int32_t sessions = 0, sessions_with_state = 0;  // kept ones
  int32_t pages_total = 0, pages_free = 0, open_pages_total = 0, open_pages_free = 0;
  int32_t orphan_pages = 0;  // pages that nobody owns though they are not free: must be 0
  absl::Duration step_age;   // since the engine last finished a step or found nothing to do
  bool serving = false;      // false: starting, draining or failed
  std::string not_serving_reason;
  uint64_t steps = 0, prompt_tokens = 0, cached_tokens = 0, recomputed_tokens = 0, generated_tokens = 0;
  uint64_t state_evictions = 0, preemptions = 0, discarded_tokens = 0, state_saturations = 0,
           nonfinite_rows = 0;
};

// What a step did; reported by the engine thread after each step. The callee must not block.
struct StepReport {
  int32_t decode_rows = 0, prefill_rows = 0, segments = 0;
  absl::Duration total, device;  // wall time of the step, and of the ops within it
  absl::Duration ops_cpu;        // CPU time of the ops, all threads
};
// What a turn did; reported by the emitter thread when it ends.
struct TurnReport {
  absl::StatusCode code = absl::StatusCode::kOk;
  FinishReason reason = FinishReason::kStop;  // of sample 0; valid when code is OK
  bool started = false;                       // else all its time was spent waiting
  FinishedEvent finished;
  absl::Duration time_to_first_token = absl::InfiniteDuration();  // infinite: there was none
  absl::Duration total;
};
// Metrics hooks; every field may be empty.
struct CoreHooks {
  std::function<void(const StepReport&)> on_step;
  std::function<void(const TurnReport&)> on_turn;
  std::function<void(absl::Duration)> on_inter_token;     // gap between two tokens of a turn
  std::function<void(absl::Duration)> on_cancel_to_free;  // from Cancel to the pages being free
  std::function<void(const absl::Status&)> on_fatal;  // the device failed: the engine has stopped for good
};

// Thread-safe. Nothing here blocks; callbacks run on the engine or emitter thread and must not block either.
class Core {
 public:
  // `ops` has its state allocated; `tokenizer` may be null. Both are owned. The clock outlives the core.
  // INVALID_ARGUMENT for options that cannot be, RESOURCE_EXHAUSTED when the system has no threads left.
  static absl::StatusOr<std::unique_ptr<Core>> Create(const CoreOptions& options, std::unique_ptr<Ops> ops,
                                                      std::shared_ptr<const Tokenizer> tokenizer,
                                                      CoreHooks hooks, const Clock* clock);
  virtual ~Core() = default;  // ends every turn (UNAVAILABLE, SHUTTING_DOWN), then joins the threads

  // Takes a turn. A non-OK status means that it was refused at once and its sink will never be called; after
  // OK the sink gets exactly one terminal event.
  virtual absl::Status Submit(std::unique_ptr<TurnRequest> request) = 0;
  // Ends a turn: finish reason CANCELLED (a client's wish) or the error given (a slow reader). No effect on
  // turns that are over or unknown. Whatever ends a turn (this, a deadline, a drain), the session keeps
  // exactly the tokens that its sink was told; a turn that never started ends without OnStarted and leaves no
  // trace (and where its deadline ended it, with DEADLINE_EXCEEDED).
  virtual void Cancel(const Principal& principal, const std::string& request_id,
                      absl::Status error = absl::OkStatus()) = 0;
  // Likewise, of the turn that runs or waits on a session, kept or not.
  virtual void CancelOnSession(const Principal& principal, const std::string& session_id) = 0;
  // A paused turn gets no steps: its reader is behind. It keeps its state while nobody else needs the pages.
  virtual void SetPaused(const Principal& principal, const std::string& request_id, bool paused) = 0;

  virtual void CreateSession(const Principal& principal,
                             std::function<void(absl::StatusOr<SessionInfo>)> done) = 0;
  virtual void GetSession(const Principal& principal, const std::string& session_id,
                          std::function<void(absl::StatusOr<SessionInfo>)> done) = 0;
  // Sessions of the principal by ascending ID, those after `after_id`, at most `limit`.
  virtual void ListSessions(const Principal& principal, const std::string& after_id, int32_t limit,
                            std::function<void(std::vector<SessionInfo>)> done) = 0;
  // A running turn is cancelled first.
  virtual void DeleteSession(const Principal& principal, const std::string& session_id,
                             std::function<void(absl::Status)> done) = 0;

  // Runs `work` on the tokenizer pool, where prompts are encoded, too; see TextQueue. Dropped, not run, when
  // the core ends first.
  virtual void PostTextWork(TextUse use, int64_t bytes, Task work) = 0;

  // Refuses new turns (UNAVAILABLE, DRAINING), lets the running ones finish until `deadline`, then ends them
  // with finish reason DRAINED. A running call may submit further turns (TurnRequest::continues) until then.
  // `done` is called once nothing runs and no sink has submitted another turn on being told of an end.
  virtual void Drain(absl::Time deadline, std::function<void()> done) = 0;

  virtual CoreStatus Status() const = 0;  // the latest snapshot; any thread
};

}  // namespace sessa
