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

void TurnRegistry::Remove(const Principal& principal, const std::string& request_id) {
  std::shared_ptr<LiveTurn> last;  // dies after the lock
  MutexLock lock(&mutex_);
  const auto found = turns_.find(Key(principal, request_id));
  if (found == turns_.end()) return;
  last = std::move(found->second.turn);
  const auto session = by_session_.find(found->second.session_key);
  // The next turn of the session may have taken the entry over.
  if (session != by_session_.end() && session->second == request_id) by_session_.erase(session);
  turns_.erase(found);
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
    turns.reserve(turns_.size());
    for (const auto& [key, entry] : turns_) turns.push_back(entry.turn);
  }
  for (const auto& turn : turns) turn->CheckReader(now);
}

size_t TurnRegistry::size() const {
  MutexLock lock(&mutex_);
  return turns_.size();
}

}  // namespace sessa
