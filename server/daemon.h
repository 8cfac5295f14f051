// The daemon in one object: gRPC, operator HTTP and housekeeping around a core. main.cc runs one; tests run
// it in-process.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/flags.h"
#include "server/model_loader.h"
#include "server/telemetry.h"

namespace sessa {

// Thread-safe after Start.
class Daemon {
 public:
  // Starts serving. UNAVAILABLE names the flag whose address cannot be listened on. `telemetry` is the one
  // whose hooks the model's core was given; it outlives the daemon.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const DaemonOptions& options, ServedModel model,
                                                       Telemetry* telemetry);
  // Stops at once: running turns end with UNAVAILABLE, SHUTTING_DOWN. Drain first for a clean end.
  ~Daemon();

  std::string grpc_address() const;  // that clients can dial; with the port that the system gave for port 0
  std::string metrics_address() const;  // empty: no operator HTTP
  const v1::Model& model() const;
  Core& core();

  // Refuses new turns, lets running ones go on for `timeout`, ends the rest; then calls `done`, on any
  // thread.
  void Drain(absl::Duration timeout, std::function<void()> done);
  // Why the server does not serve; empty: it does.
  std::string NotServingReason() const;

 private:
  struct Parts;
  explicit Daemon(std::unique_ptr<Parts> parts);
  const std::unique_ptr<Parts> parts_;
};

}  // namespace sessa
