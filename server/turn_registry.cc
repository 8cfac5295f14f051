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
  return turns_.try_emplace(Key(principal, request_id), std::move(turn)).second;
}

std::shared_ptr<LiveTurn> TurnRegistry::Take(const Principal& principal, const std::string& request_id,
                                             const LiveTurn* turn) {
  const auto found = turns_.find(Key(principal, request_id));
  if (found == turns_.end() || found->second.get() != turn) return nullptr;
  std::shared_ptr<LiveTurn> taken = std::move(found->second);
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
    turn = found->second;
  }
  turn->CancelByRequest();
}

void TurnRegistry::CheckReaders(absl::Time now) {
  std::vector<std::shared_ptr<LiveTurn>> turns;
  {
    MutexLock lock(&mutex_);
    turns.reserve(turns_.size() + closing_.size());
    for (const auto& [key, turn] : turns_) turns.push_back(turn);
    for (const auto& [key, turn] : closing_) turns.push_back(turn);
  }
  for (const auto& turn : turns) turn->CheckReader(now);
}

}  // namespace sessa
