#include "loadtest/server_watch.h"

#include "absl/time/clock.h"

namespace sessa {

ServerWatch::ServerWatch(Client* client, absl::Duration interval) : client_(client) {
  thread_ = std::thread([this, interval] {
    // An error only means that the report has no server section, or a shorter one.
    client_
        ->WatchStatus(interval, {.canceller = &canceller_},
                      [this](const v1::ServerStatus& status) {
                        updates_.push_back({absl::Now(), status});
                        return true;
                      })
        .IgnoreError();
  });
}

ServerWatch::~ServerWatch() { Stop(); }

void ServerWatch::Stop() {
  if (!thread_.joinable()) return;
  canceller_.Cancel();
  thread_.join();
}

}  // namespace sessa
