// The kept sessions, in memory.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "scheduler/session.h"

namespace sessa {

// 128 random bits from the operating system, as 32 hex digits. Thread-safe.
std::string RandomSessionId();

// Engine-thread only. Sessions stay where they are until Remove.
class SessionStore {
 public:
  // `make_id` gives IDs that do not repeat (RandomSessionId, or the simulator's).
  SessionStore(int32_t max_sessions, std::function<std::string()> make_id);

  // A new, empty, idle session. RESOURCE_EXHAUSTED (TOO_MANY_SESSIONS) when the store is full.
  absl::StatusOr<Session*> Create(const std::string& principal, absl::Time now);
  std::string NewId() const { return make_id_(); }
  // nullptr when the principal has no such session: whether another has one cannot be told.
  Session* Find(const std::string& principal, const std::string& id) const;
  // By ascending ID, those after `after_id`, at most `limit`.
  std::vector<Session*> List(const std::string& principal, const std::string& after_id, int32_t limit) const;
  // REQUIRES: no turn, no pages.
  void Remove(Session* session);

  // A session is idle when it has no turn. Becoming idle, it is the one that was used last.
  void SetIdle(Session* session, absl::Time now);
  void SetBusy(Session* session);
  // Call when an idle session has lost its pages.
  void StateDropped(Session* session);
  // Least recently used first.
  const std::list<Session*>& idle() const { return idle_; }
  const std::list<Session*>& idle_with_state() const { return idle_with_state_; }

  int32_t size() const { return static_cast<int32_t>(sessions_.size()); }
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const auto& [key, session] : sessions_) visit(session.get());
  }

 private:
  using Key = std::pair<std::string, std::string>;  // principal, ID

  const int32_t max_sessions_;
  const std::function<std::string()> make_id_;
  std::map<Key, std::unique_ptr<Session>> sessions_;
  std::list<Session*> idle_, idle_with_state_;
};

}  // namespace sessa
