// The streaming calls that are open: found by their IDs, looked after while their clients do not read.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "absl/time/time.h"
#include "runtime/base/mutex.h"
#include "scheduler/request.h"

namespace sessa {

// An open streaming call.
class LiveTurn {
 public:
  virtual ~LiveTurn() = default;
  // Ends the call when its client has read nothing for too long. Called every fraction of a second.
  virtual void CheckReader(absl::Time now) = 0;
  // Ends its turn because a client asked for that with CancelTurn.
  virtual void CancelByRequest() = 0;
};

// Thread-safe.
class TurnRegistry {
 public:
  // False when a call of this principal with this request_id is open already.
  bool Add(const Principal& principal, const std::string& request_id, std::shared_ptr<LiveTurn> turn);
  // The turn is over: its name is free, while its client may still have to read the end.
  void Release(const Principal& principal, const std::string& request_id, const LiveTurn* turn);
  // The call is closed.
  void Remove(const Principal& principal, const std::string& request_id, const LiveTurn* turn);

  // CancelByRequest of that call. No effect when it is not open.
  void Cancel(const Principal& principal, const std::string& request_id);
  void CheckReaders(absl::Time now);

 private:
  static std::string Key(const Principal& principal, const std::string& id);
  // Takes a turn out of the map; nullptr when it is not there (any more).
  std::shared_ptr<LiveTurn> Take(const Principal& principal, const std::string& request_id,
                                 const LiveTurn* turn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  std::unordered_map<std::string, std::shared_ptr<LiveTurn>> turns_
      ABSL_GUARDED_BY(mutex_);  // by principal and request_id
  std::unordered_map<const LiveTurn*, std::shared_ptr<LiveTurn>> closing_
      ABSL_GUARDED_BY(mutex_);  // released
};

}  // namespace sessa
