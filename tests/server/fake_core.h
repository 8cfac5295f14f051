// A core that does what a test says: turns are handed to a script, events leave on one thread as the
// emitter's do.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/errors.h"
#include "runtime/base/mutex.h"
#include "scheduler/core.h"

namespace sessa {

class FakeCore : public Core {
 public:
  // Called on the emitter thread for each turn. Default: Started, one delta "hello", SampleFinished,
  // Finished.
  using Script = std::function<void(FakeCore* core, const TurnRequest& turn)>;

  FakeCore() : emitter_([this] { Run(); }) {}
  ~FakeCore() override {
    Post(nullptr);
    emitter_.join();
  }

  // --- for tests ---
  void set_script(Script script) {
    MutexLock lock(&mutex_);
    script_ = std::move(script);
  }
  // Called in Submit before the turn is there.
  void set_before_submit(std::function<void()> action) {
    MutexLock lock(&mutex_);
    before_submit_ = std::move(action);
  }
  void set_refusal(absl::Status status) {
    MutexLock lock(&mutex_);
    refusal_ = std::move(status);
  }
  void set_status(const CoreStatus& status) {
    MutexLock lock(&mutex_);
    status_ = status;
  }
  void AddSession(const SessionInfo& info) {
    MutexLock lock(&mutex_);
    sessions_[info.id] = info;
  }
  // Runs on the emitter thread, in order; nullptr ends it.
  void Post(std::function<void()> work) {
    MutexLock lock(&mutex_);
    work_.push_back(std::move(work));
    wake_.SignalAll();
  }
  bool IsPaused(const std::string& id) {
    MutexLock lock(&mutex_);
    return turns_.count(id) != 0 && turns_[id].paused;
  }
  int pauses() {
    MutexLock lock(&mutex_);
    return pauses_;
  }
  int cancels() {
    MutexLock lock(&mutex_);
    return cancels_;
  }
  int text_works() {
    MutexLock lock(&mutex_);
    return text_works_;
  }
  size_t live_turns() {
    MutexLock lock(&mutex_);
    return turns_.size();
  }
  std::shared_ptr<const TurnRequest> last_turn() {
    MutexLock lock(&mutex_);
    return last_turn_;
  }
  // Ends a turn, once; false when it has ended already. Emitter thread only.
  bool Finish(const std::string& id, FinishReason reason) {
    const auto turn = Take(id);
    if (turn == nullptr) return false;
    turn->sink->OnSampleFinished({.index = 0, .reason = reason});
    turn->sink->OnFinished({});
    return true;
  }
  bool Fail(const std::string& id, const absl::Status& status) {
    const auto turn = Take(id);
    if (turn == nullptr) return false;
    turn->sink->OnError(status);
    return true;
  }
  bool IsLive(const std::string& id) {
    MutexLock lock(&mutex_);
    return turns_.count(id) != 0;
  }

  // --- Core ---
  absl::Status Submit(std::unique_ptr<TurnRequest> request) override {
    std::shared_ptr<const TurnRequest> turn = std::move(request);
    Script script;
    std::function<void()> before;
    {
      MutexLock lock(&mutex_);
      before = before_submit_;
    }
    if (before) before();
    {
      MutexLock lock(&mutex_);
      if (!refusal_.ok()) return refusal_;
      turns_[turn->request_id] = {turn, turn->paused};
      last_turn_ = turn;
      script = script_;
    }
    Post([this, script, turn] {
      if (script) return script(this, *turn);
      turn->sink->OnStarted(StartedFor(*turn));
      turn->sink->OnDelta({.token_ids = {5}, .text = "hello"});
      Finish(turn->request_id, FinishReason::kLength);
    });
    return absl::OkStatus();
  }
  void Cancel(const Principal&, const std::string& id, absl::Status error) override {
    {
      MutexLock lock(&mutex_);
      ++cancels_;
    }
    Post([this, id, error] { error.ok() ? Finish(id, FinishReason::kCancelled) : Fail(id, error); });
  }
  void CancelOnSession(const Principal& principal, const std::string& session_id) override {
    std::string id;
    {
      MutexLock lock(&mutex_);
      for (const auto& [name, turn] : turns_) {
        if (StartedFor(*turn.request).session_id == session_id) id = name;
      }
    }
    Cancel(principal, id, absl::OkStatus());
  }
  void SetPaused(const Principal&, const std::string& id, bool paused) override {
    MutexLock lock(&mutex_);
    if (paused) ++pauses_;
    if (turns_.count(id) != 0) turns_[id].paused = paused;
  }
  void CreateSession(const Principal&, std::function<void(absl::StatusOr<SessionInfo>)> done) override {
    SessionInfo info;
    info.id = "new-session";
    AddSession(info);
    done(info);
  }
  void GetSession(const Principal&, const std::string& id,
                  std::function<void(absl::StatusOr<SessionInfo>)> done) override {
    done(Find(id));
  }
  void ListSessions(const Principal&, const std::string& after, int32_t limit,
                    std::function<void(std::vector<SessionInfo>)> done) override {
    std::vector<SessionInfo> page;
    {
      MutexLock lock(&mutex_);
      for (auto it = sessions_.upper_bound(after); it != sessions_.end() && page.size() < limit; ++it) {
        page.push_back(it->second);
      }
    }
    done(std::move(page));
  }
  void DeleteSession(const Principal&, const std::string& id,
                     std::function<void(absl::Status)> done) override {
    const absl::Status found = Find(id).status();
    {
      MutexLock lock(&mutex_);
      sessions_.erase(id);
    }
    done(found);
  }
  void PostTextWork(TextUse, int64_t, Task work) override {
    {
      MutexLock lock(&mutex_);
      ++text_works_;
    }
    Post([work = std::make_shared<Task>(std::move(work))] { (*work)(); });
  }
  void Drain(absl::Time, std::function<void()> done) override {
    {
      MutexLock lock(&mutex_);
      refusal_ = MakeError(absl::StatusCode::kUnavailable, "draining",
                           {.reason = "DRAINING", .retry_after = absl::Seconds(1)});
      status_.serving = false;
      status_.not_serving_reason = "DRAINING";
    }
    Post(std::move(done));
  }
  CoreStatus Status() const override {
    MutexLock lock(&mutex_);
    return status_;
  }

  static StartedEvent StartedFor(const TurnRequest& turn) {
    StartedEvent started;
    started.session_id = turn.session_id.empty() ? "session-of-" + turn.request_id : turn.session_id;
    started.request_id = turn.request_id;
    started.seed = turn.sampling.seed;
    return started;
  }

 private:
  struct Turn {
    std::shared_ptr<const TurnRequest> request;
    bool paused = false;
  };

  std::shared_ptr<const TurnRequest> Take(const std::string& id) {
    MutexLock lock(&mutex_);
    const auto found = turns_.find(id);
    if (found == turns_.end()) return nullptr;
    auto request = found->second.request;
    turns_.erase(found);
    return request;
  }
  absl::StatusOr<SessionInfo> Find(const std::string& id) {
    MutexLock lock(&mutex_);
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) return SessionNotFound(id);
    return found->second;
  }
  void Run() {
    while (true) {
      std::function<void()> work;
      {
        MutexLock lock(&mutex_);
        while (work_.empty()) wake_.Wait(&mutex_);
        work = std::move(work_.front());
        work_.pop_front();
      }
      if (!work) return;
      work();
    }
  }

  mutable Mutex mutex_;
  CondVar wake_;
  std::deque<std::function<void()>> work_ ABSL_GUARDED_BY(mutex_);
  Script script_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> before_submit_ ABSL_GUARDED_BY(mutex_);
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
  CoreStatus status_ ABSL_GUARDED_BY(mutex_) = [] {
    CoreStatus status;
    status.serving = true;
    return status;
  }();
  std::map<std::string, Turn> turns_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, SessionInfo> sessions_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const TurnRequest> last_turn_ ABSL_GUARDED_BY(mutex_);
  int pauses_ ABSL_GUARDED_BY(mutex_) = 0;
  int cancels_ ABSL_GUARDED_BY(mutex_) = 0;
  int text_works_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread emitter_;
};

}  // namespace sessa
