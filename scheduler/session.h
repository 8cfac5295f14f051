// A session: an append-only token sequence that turns are added to, one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "scheduler/sequence.h"

namespace sessa {

struct Turn;

// Engine-thread only.
struct Session {
  std::string id;  // 128 random bits in hex
  std::string principal;
  Sequence sequence;
  bool kept = false;     // in the store; otherwise it ends with its turn
  Turn* turn = nullptr;  // the one that runs or waits
  absl::Time created, last_used;
  std::vector<std::function<void(absl::Status)>>
      on_deleted;  // not empty: to be deleted when the turn has ended

 private:
  friend class SessionStore;
  std::list<Session*>::iterator idle_place, state_place;  // in SessionStore's lists
  bool is_idle = false, is_idle_with_state = false;
};

}  // namespace sessa
