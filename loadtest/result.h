// The figures of a run, ready for the writers of report.h. Plain data.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "loadtest/histogram.h"
#include "loadtest/recorder.h"
#include "sessa/v1/admin.pb.h"
#include "sessa/v1/inference.pb.h"

namespace sessa {

// Differences of the server's own counters over the measured time.
struct ServerFigures {
  double seconds = 0;  // between the two statuses that were compared
  uint64_t steps = 0, prompt_tokens = 0, cached_tokens = 0, recomputed_tokens = 0, generated_tokens = 0;
  uint64_t discarded_tokens = 0, state_evictions = 0, preemptions = 0;
  double step_seconds = 0, device_seconds = 0, cpu_seconds = 0, ops_cpu_seconds = 0;
  int64_t resident_bytes = 0;  // at the end
};

struct Result {
  std::string scenario_name, scenario;  // the latter in a line
  std::string server;
  v1::Model model;
  absl::Time start;
  double warm_up_seconds = 0;
  double measured_seconds = 0;
  int threads = 0, channels = 0;

  uint64_t turns = 0, failed_turns = 0;  // measured
  uint64_t prompt_tokens = 0, generated_tokens = 0;
  int64_t cached_tokens = 0, recomputed_tokens = 0;
  Histogram first_token, gap, whole, late;  // seconds
  std::map<std::string, uint64_t> outcomes, finish_reasons;
  double client_cpu_seconds = 0;  // of sessaload, over the measured time

  double step_seconds = 0;  // of the series
  std::vector<Recorder::Step> steps;
  std::vector<Recorder::Point> points;

  std::optional<ServerFigures> server_figures;  // none: the server has no Admin service
  struct ServerPoint {
    double at = 0;  // seconds since the start
    v1::ServerStatus status;
  };
  std::vector<ServerPoint> server_points;

  double PerSecond(uint64_t count) const {
    return measured_seconds > 0 ? static_cast<double>(count) / measured_seconds : 0;
  }
};

}  // namespace sessa
