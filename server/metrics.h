// The metric families of sessad. Made once; the hot path is one increment on a kept reference.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "scheduler/core.h"

namespace sessa {

// Thread-safe. No label ever carries what a client sent, so the number of series is constant.
class Metrics {
 public:
  struct BuildInfo {
    std::string version, commit, backend, model;
  };
  Metrics();
  ~Metrics();
  void SetBuildInfo(const BuildInfo& build);  // once

  // Hooks of the core; each is called on a hot thread and does a few increments.
  void OnStep(const StepReport& report);
  void OnTurn(const TurnReport& report);
  void OnInterToken(absl::Duration gap);
  void OnCancelToFree(absl::Duration time);
  // A turn of an earlier session began: how its state came to be there.
  void OnRestore(const Restore& restore);
  // A turn that was refused before the core took it, so that OnTurn never sees it.
  void OnRefused(absl::StatusCode code);
  void OnSlowReader();
  void OnStreams(int64_t change);  // +1 a stream opened, -1 closed

  // The exposition text. `status` fills the gauges and the counters that the core keeps.
  std::string Render(const CoreStatus& status);

 private:
  struct Families;
  const std::unique_ptr<Families> families_;
};

}  // namespace sessa
