#include "server/turn_registry.h"

#include <utility>
#include <vector>

namespace sessa {

std::string TurnRegistry::Key(const Principal& principal, const std::string& id) {
  std::string key = principal.name;
  key += '\0';  // occurs in no ID
  key += id;
  return key;
}

bool TurnRegistry::Add(const Principal& principal, const std::string& request_id,
                       std::shared_ptr<LiveTurn> turn) {
  MutexLock lock(&mutex_);
  return turns_.try_emplace(Key(principal, request_id), Entry{std::move(turn), ""}).second;
}

void TurnRegistry::SetSession(const Principal& principal, const std::string& request_id,
                              const std::string& session_id) {
  MutexLock lock(&mutex_);
  const auto found = turns_.find(Key(principal, request_id));
  if (found == turns_.end()) return;
  found->second.session_key = Key(principal, session_id);
  by_session_[found->second.session_key] = request_id;
}

std::shared_ptr<LiveTurn> TurnRegistry::Take(const Principal& principal, const std::string& request_id,
                                             const LiveTurn* turn) {
  const auto found = turns_.find(Key(principal, request_id));
  if (found == turns_.end() || found->second.turn.get() != turn) return nullptr;
  const auto session = by_session_.find(found->second.session_key);
  // The next turn of the session may have taken the entry over.
  if (session != by_session_.end() && session->second == request_id) by_session_.erase(session);
  std::shared_ptr<LiveTurn> taken = std::move(found->second.turn);
  turns_.erase(found);
  return taken;
}

void TurnRegistry::Release(const Principal& principal, const std::string& request_id, const LiveTurn* turn) {
  MutexLock lock(&mutex_);
  if (auto taken = Take(principal, request_id, turn)) closing_.emplace(turn, std::move(taken));
}

void TurnRegistry::Remove(const Principal& principal, const std::string& request_id, const LiveTurn* turn) {
  std::shared_ptr<LiveTurn> named, released;  // die after the lock
  MutexLock lock(&mutex_);
  named = Take(principal, request_id, turn);
  const auto found = closing_.find(turn);
  if (found == closing_.end()) return;
  released = std::move(found->second);
  closing_.erase(found);
}

void TurnRegistry::Cancel(const Principal& principal, const std::string& request_id) {
  std::shared_ptr<LiveTurn> turn;
  {
    MutexLock lock(&mutex_);
    const auto found = turns_.find(Key(principal, request_id));
    if (found == turns_.end()) return;
    turn = found->second.turn;
  }
  turn->CancelByRequest();
}

std::string TurnRegistry::FindBySession(const Principal& principal, const std::string& session_id) const {
  MutexLock lock(&mutex_);
  const auto found = by_session_.find(Key(principal, session_id));
  return found == by_session_.end() ? "" : found->second;
}

void TurnRegistry::CheckReaders(absl::Time now) {
  std::vector<std::shared_ptr<LiveTurn>> turns;
  {
    MutexLock lock(&mutex_);
    turns.reserve(turns_.size() + closing_.size());
    for (const auto& [key, entry] : turns_) turns.push_back(entry.turn);
    for (const auto& [key, turn] : closing_) turns.push_back(turn);
  }
  for (const auto& turn : turns) turn->CheckReader(now);
}

size_t TurnRegistry::size() const {
  MutexLock lock(&mutex_);
  return turns_.size() + closing_.size();
}

}  // namespace sessa
