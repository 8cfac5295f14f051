// The operator's HTTP: /metrics, /healthz, /version and a page that names them. Reads snapshots only.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace sessa {

// Serves on threads of its own from Start until destruction.
class OperatorHttp {
 public:
  // What the pages show. Called on HTTP threads, possibly several at once; must not block.
  struct Pages {
    std::function<std::string()> metrics;  // Prometheus exposition text
    std::function<std::string()> health;   // empty: healthy; otherwise why not
    std::string version;                   // one JSON object
  };

  // Binds at once; UNAVAILABLE names the address when it cannot. Port 0 takes a free one. A connection is
  // closed after `connection_time`, whatever its client does.
  static absl::StatusOr<std::unique_ptr<OperatorHttp>> Start(
      const std::string& host, int port, Pages pages, absl::Duration connection_time = absl::Seconds(5));
  ~OperatorHttp();  // closes what is open; waits for no client

  int port() const;

 private:
  struct Impl;
  explicit OperatorHttp(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace sessa
