#include "scheduler/session_store.h"

#include <sys/random.h>

#include <cassert>
#include <cerrno>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "runtime/base/errors.h"

namespace sessa {

std::string RandomSessionId() {
  char bits[16];
  size_t filled = 0;
  while (filled < sizeof(bits)) {
    const ssize_t n = getrandom(bits + filled, sizeof(bits) - filled, 0);
    assert(n > 0 || errno == EINTR);
    if (n > 0) filled += static_cast<size_t>(n);
  }
  return absl::BytesToHexString(absl::string_view(bits, sizeof(bits)));
}

SessionStore::SessionStore(int32_t max_sessions, std::function<std::string()> make_id)
    : max_sessions_(max_sessions), make_id_(std::move(make_id)) {}

absl::StatusOr<Session*> SessionStore::Create(const std::string& principal, absl::Time now) {
  if (size() >= max_sessions_) {
    return Shed("TOO_MANY_SESSIONS", "the server keeps as many sessions as it may", absl::Seconds(30));
  }
  auto session = std::make_unique<Session>();
  session->id = make_id_();
  session->kept = true;
  session->principal = principal;
  session->created = session->last_used = now;
  Session* raw = session.get();
  const bool is_new = sessions_.emplace(Key(principal, raw->id), std::move(session)).second;
  assert(is_new);
  (void)is_new;
  SetIdle(raw, now);
  return raw;
}

Session* SessionStore::Find(const std::string& principal, const std::string& id) const {
  const auto it = sessions_.find(Key(principal, id));
  return it == sessions_.end() ? nullptr : it->second.get();
}

std::vector<Session*> SessionStore::List(const std::string& principal, const std::string& after_id,
                                         int32_t limit) const {
  std::vector<Session*> found;
  for (auto it = sessions_.upper_bound(Key(principal, after_id));
       it != sessions_.end() && it->first.first == principal && static_cast<int32_t>(found.size()) < limit;
       ++it) {
    found.push_back(it->second.get());
  }
  return found;
}

void SessionStore::Remove(Session* session) {
  assert(session->turn == nullptr);
  SetBusy(session);
  sessions_.erase(Key(session->principal, session->id));
}

void SessionStore::SetIdle(Session* session, absl::Time now) {
  SetBusy(session);
  session->last_used = now;
  session->idle_place = idle_.insert(idle_.end(), session);
  session->is_idle = true;
  if (session->sequence.computed() == 0) return;
  session->state_place = idle_with_state_.insert(idle_with_state_.end(), session);
  session->is_idle_with_state = true;
}

void SessionStore::SetBusy(Session* session) {
  if (session->is_idle) idle_.erase(session->idle_place);
  session->is_idle = false;
  StateDropped(session);
}

void SessionStore::StateDropped(Session* session) {
  if (session->is_idle_with_state) idle_with_state_.erase(session->state_place);
  session->is_idle_with_state = false;
}

}  // namespace sessa
