// Sessions without a turn: created, shown, forgotten.
#include "runtime/base/errors.h"
#include "scheduler/engine.h"

namespace sessa {

SessionInfo Engine::Describe(const Session& session) {
  SessionInfo info{.id = session.id,
                   .position = session.sequence.size(),
                   .cached_tokens = session.sequence.computed(),
                   .busy = session.turn != nullptr,
                   .created = session.created,
                   .last_used = session.last_used};
  if (session.turn != nullptr) info.running_request_id = session.turn->request->request_id;
  return info;
}

absl::StatusOr<SessionInfo> Engine::CreateSession(const std::string& principal) {
  absl::StatusOr<Session*> session = sessions_.Create(principal, clock_->Now());
  if (!session.ok()) return session.status();
  return Describe(**session);
}

absl::StatusOr<SessionInfo> Engine::GetSession(const std::string& principal, const std::string& id) {
  const Session* session = sessions_.Find(principal, id);
  if (session == nullptr) return SessionNotFound(id);
  return Describe(*session);
}

std::vector<SessionInfo> Engine::ListSessions(const std::string& principal, const std::string& after_id,
                                              int32_t limit) {
  std::vector<SessionInfo> infos;
  for (const Session* session : sessions_.List(principal, after_id, limit))
    infos.push_back(Describe(*session));
  return infos;
}

void Engine::DeleteSession(const std::string& principal, const std::string& id,
                           std::function<void(absl::Status)> done) {
  Session* session = sessions_.Find(principal, id);
  if (session == nullptr) return done(SessionNotFound(id));
  session->on_deleted.push_back(std::move(done));
  if (session->turn != nullptr) {
    session->turn->cancelled = std::min(session->turn->cancelled, clock_->Now());
    EndTurn(session->turn, FinishReason::kCancelled);  // which removes the session, maybe a little later
  } else {
    RemoveSession(session);
  }
}

void Engine::RemoveSession(Session* session) {
  const std::vector<std::function<void(absl::Status)>> on_deleted = std::move(session->on_deleted);
  session->sequence.DropState(&arena_);
  sessions_.Remove(session);
  for (const auto& done : on_deleted) done(absl::OkStatus());
}

void Engine::ExpireSessions(absl::Time now) {
  while (!sessions_.idle_with_state().empty()) {
    Session* session = sessions_.idle_with_state().front();
    if (now - session->last_used < options_.idle_state_ttl) break;
    session->sequence.DropState(&arena_);
    sessions_.StateDropped(session);
    ++totals_.state_evictions;
  }
  while (!sessions_.idle().empty()) {
    Session* session = sessions_.idle().front();
    if (now - session->last_used < options_.idle_session_ttl) break;
    RemoveSession(session);
  }
}

}  // namespace sessa
