// What the server says of itself while the load runs.
#pragma once

#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "client/client.h"

namespace sessa {

// Collects ServerStatus messages on a thread of its own. A server without Admin gives none.
class ServerWatch {
 public:
  ServerWatch(Client* client, absl::Duration interval);  // `client` outlives it
  ~ServerWatch();                                        // Stop
  void Stop();

  struct Update {
    absl::Time at;  // when it came here
    v1::ServerStatus status;
  };
  // After Stop.
  const std::vector<Update>& updates() const { return updates_; }

 private:
  Client* const client_;
  CallCanceller canceller_;
  std::vector<Update> updates_;  // the thread's until it is joined
  std::thread thread_;
};

}  // namespace sessa
