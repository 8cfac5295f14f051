#include "loadtest/runner.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "client/loopback.h"
#include "client/proto_time.h"
#include "loadtest/server_watch.h"
#include "loadtest/worker.h"

namespace sessa {
namespace {

constexpr absl::Duration kWatchInterval = absl::Milliseconds(500);
constexpr auto kConnectTime = std::chrono::seconds(10);

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * t.tv_usec; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Connections that are up: gRPC 1.51 may take the first attempt for a refused one (grpc/grpc 35064), which is
// not what is to be measured. One that does not come up fails its calls.
std::vector<std::unique_ptr<Connection>> Connect(const std::string& server, int count,
                                                 const std::atomic<int>& stops) {
  std::vector<std::unique_ptr<Connection>> connections;
  for (int i = 0; i < count; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // or equal channels would share one connection
    if (IsLoopback(server)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    const auto channel = grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
    if (stops == 0) channel->WaitForConnected(std::chrono::system_clock::now() + kConnectTime);
    connections.push_back(std::make_unique<Connection>(
        Connection{v1::Inference::NewStub(channel), v1::Sessions::NewStub(channel)}));
  }
  return connections;
}

// The workers with their shares of users, rate and connections.
std::vector<std::unique_ptr<Worker>> MakeWorkers(
    const WorkerSetup& setup, const std::vector<std::unique_ptr<Connection>>& connections) {
  const Scenario& scenario = *setup.scenario;
  std::vector<std::unique_ptr<Worker>> workers;
  int first_user = 0;
  for (int i = 0; i < scenario.threads; ++i) {
    std::vector<Connection*> mine;
    for (size_t c = i % connections.size(); c < connections.size(); c += scenario.threads) {
      mine.push_back(connections[c].get());
    }
    const int users = scenario.concurrency / scenario.threads + (i < scenario.concurrency % scenario.threads);
    workers.push_back(
        std::make_unique<Worker>(setup, mine, i, users, first_user, scenario.rate / scenario.threads));
    first_user += users;
  }
  return workers;
}

// CPU of this process over the measured time: read at its start and end by a thread that sleeps in between.
class CpuMeter {
 public:
  CpuMeter(absl::Time from, absl::Time to) : thread_([this, from, to] { Run(from, to); }) {}
  ~CpuMeter() { Stop(); }
  double Stop() {
    stopped_ = true;
    if (thread_.joinable()) thread_.join();
    return cpu_;
  }

 private:
  void WaitUntil(absl::Time time) const {
    while (!stopped_ && absl::Now() < time)
      absl::SleepFor(std::min(time - absl::Now(), absl::Milliseconds(50)));
  }
  void Run(absl::Time from, absl::Time to) {
    WaitUntil(from);
    const double before = CpuSeconds();
    WaitUntil(to);
    cpu_ = CpuSeconds() - before;
  }
  std::atomic<bool> stopped_ = false;
  double cpu_ = 0;  // the thread's until it is joined
  std::thread thread_;
};

void CopyRecorder(const Recorder& all, Result* result) {
  result->turns = all.turns;
  result->failed_turns = all.failed_turns;
  result->prompt_tokens = all.prompt_tokens;
  result->generated_tokens = all.generated_tokens;
  result->cached_tokens = all.cached_tokens;
  result->recomputed_tokens = all.recomputed_tokens;
  result->first_token = all.first_token;
  result->gap = all.gap;
  result->whole = all.whole;
  result->late = all.late;
  result->outcomes = all.outcomes();
  result->finish_reasons = all.finish_reasons();
  result->step_seconds = absl::ToDoubleSeconds(all.bucket());
  result->steps = all.steps();
  result->points = all.points();
}

// Runs the workers to their end and merges what they saw.
Recorder RunWorkers(const WorkerSetup& setup, const std::vector<std::unique_ptr<Connection>>& connections) {
  const auto workers = MakeWorkers(setup, connections);
  std::vector<std::thread> threads;
  for (const auto& worker : workers) threads.emplace_back([&worker] { worker->Run(); });
  for (std::thread& thread : threads) thread.join();
  Recorder all = workers[0]->recorder();
  for (size_t i = 1; i < workers.size(); ++i) all.Merge(workers[i]->recorder());
  return all;
}

}  // namespace

std::optional<ServerFigures> ServerDifference(const std::vector<Result::ServerPoint>& points, double from,
                                              double to) {
  const Result::ServerPoint* first = nullptr;
  const Result::ServerPoint* last = nullptr;
  for (const auto& point : points) {
    if (point.at < from || point.at > to) continue;
    if (first == nullptr) first = &point;
    last = &point;
  }
  if (first == last) return std::nullopt;
  const auto& a = first->status.totals();
  const auto& b = last->status.totals();
  const auto seconds = [](const auto& later, const auto& earlier) {
    return absl::ToDoubleSeconds(ToDuration(later) - ToDuration(earlier));
  };
  ServerFigures figures;
  figures.seconds = last->at - first->at;
  figures.steps = b.steps() - a.steps();
  figures.prompt_tokens = b.prompt_tokens() - a.prompt_tokens();
  figures.cached_tokens = b.cached_tokens() - a.cached_tokens();
  figures.recomputed_tokens = b.recomputed_tokens() - a.recomputed_tokens();
  figures.generated_tokens = b.generated_tokens() - a.generated_tokens();
  figures.discarded_tokens = b.discarded_tokens() - a.discarded_tokens();
  figures.state_evictions = b.state_evictions() - a.state_evictions();
  figures.preemptions = b.preemptions() - a.preemptions();
  figures.step_seconds = seconds(b.step_time(), a.step_time());
  figures.device_seconds = seconds(b.device_time(), a.device_time());
  figures.ops_cpu_seconds = seconds(b.ops_cpu_time(), a.ops_cpu_time());
  figures.cpu_seconds = seconds(last->status.process().cpu_time(), first->status.process().cpu_time());
  figures.resident_bytes = last->status.process().resident_bytes();
  return figures;
}

absl::StatusOr<Result> RunScenario(const Scenario& scenario, const std::string& server,
                                   const std::atomic<int>* stops) {
  Result result;
  Client client(
      {.server = server});  // to the end: gRPC shuts down with its last user, and not twice in a run
  auto model = client.GetModel({.deadline = absl::Now() + absl::Seconds(10)});
  if (!model.ok()) return model.status();
  result.model = *std::move(model);
  result.server = server;
  result.scenario_name = scenario.name;
  result.scenario = scenario.Describe();
  result.threads = scenario.threads;
  result.channels = scenario.channels;

  const auto connections = Connect(server, scenario.channels, *stops);
  ServerWatch watch(&client, kWatchInterval);
  std::atomic<int64_t> turns_begun = 0;
  result.start = absl::Now();
  const bool timed = scenario.duration > absl::ZeroDuration();
  const absl::Time measured_from = result.start + scenario.warm_up;
  CpuMeter cpu(measured_from, timed ? measured_from + scenario.duration : absl::InfiniteFuture());
  const Recorder all = RunWorkers({.scenario = &scenario,
                                   .model = &result.model,
                                   .start = result.start,
                                   .turns_begun = &turns_begun,
                                   .stops = stops},
                                  connections);
  // The whole window counts, with what was idle of it, unless the load ended before.
  const bool whole_window = timed && absl::Now() >= measured_from + scenario.duration;
  result.client_cpu_seconds = cpu.Stop();
  watch.Stop();

  CopyRecorder(all, &result);
  result.warm_up_seconds = absl::ToDoubleSeconds(scenario.warm_up);
  const absl::Duration end = whole_window ? scenario.warm_up + scenario.duration : all.last_end;
  result.measured_seconds = std::max(0.0, absl::ToDoubleSeconds(end - scenario.warm_up));
  for (const auto& update : watch.updates()) {
    result.server_points.push_back({absl::ToDoubleSeconds(update.at - result.start), update.status});
  }
  result.server_figures =
      ServerDifference(result.server_points, result.warm_up_seconds, absl::ToDoubleSeconds(end));
  return result;
}

}  // namespace sessa
