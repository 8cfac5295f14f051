#include "tests/scheduler/simulator.h"

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/scheduler/simulated_client.h"
#include "tests/scheduler/toy_core.h"

namespace sessa::toy {
namespace {

class Simulation {
 public:
  explicit Simulation(uint64_t seed)
      : random_(seed), config_(RandomConfig()), toy_(config_), clients_(&toy_) {}

  SimulationResult Run() {
    const int32_t actions = Pick(50, 600);
    for (int32_t i = 0; i < actions && Ok(); ++i) Act();
    if (Ok()) Finish();
    if (Ok()) CheckRest();
    SimulationResult result = clients_.result();
    const CoreStatus status = toy_.core().Status();
    result.steps = status.steps;
    result.evictions = status.state_evictions;
    result.preemptions = status.preemptions;
    result.recomputed = status.recomputed_tokens;
    result.discarded = status.discarded_tokens;
    result.nonfinite = status.nonfinite_rows;
    return result;
  }

 private:
  int32_t Pick(int32_t low, int32_t high) {  // both included
    return std::uniform_int_distribution<int32_t>(low, high)(random_);
  }
  bool Chance(int32_t percent) { return Pick(1, 100) <= percent; }
  bool Ok() const { return clients_.result().failure.empty(); }
  void Expect(bool truth, const std::string& promise) { clients_.Expect(truth, promise); }

  ToyConfig RandomConfig() {
    ToyConfig config;
    config.ops.compact = Chance(50);
    config.ops.steps_in_flight = Pick(1, 2);
    config.max_batch_sessions = Pick(1, 8);
    config.ops.max_segments = config.max_batch_sessions;
    config.ops.max_rows = Pick(config.max_batch_sessions, Chance(50) ? 16 : 100);
    config.ops.max_output_rows = Pick(1, 16);
    if (Chance(30)) config.ops.seconds_per_row = 1e-6;
    config.state_pages = Pick(2, Chance(70) ? 10 : 40);
    config.open_pages = Pick(1, 10);
    config.max_context = Pick(40, 500);
    config.max_waiting = Chance(20) ? Pick(1, 4) : 200;
    config.max_sessions = Chance(20) ? Pick(1, 3) : 1000;
    config.priority_aging = absl::Seconds(Pick(1, 20));
    config.idle_state_ttl = absl::Seconds(Chance(30) ? Pick(1, 20) : 100000);
    if (Chance(10)) config.bos = -1;
    if (Chance(20)) config.eos = -1;
    return config;
  }

  void Act() {
    const int32_t what = Pick(1, 1000);
    if (what <= 100) {
      clients_.Submit(RandomRequest());
    } else if (what <= 760 - emitter_share_) {
      RunEngine();
    } else if (what <= 760) {
      RunEmitter();
    } else if (what <= 860) {
      toy_.pool().RunOne();
    } else if (what <= 885) {
      clients_.CancelSome(random_);
    } else if (what <= 890) {
      clients_.CancelOnSome(random_);
    } else if (what <= 930) {
      clients_.PauseSome(random_);
    } else if (what <= 980) {
      toy_.clock().Advance(absl::Milliseconds(Pick(1, 2000)));
    } else if (what <= 990) {
      clients_.DeleteSome(random_);
    } else if (what <= 995) {
      clients_.CreateSession(Principal());
    } else if (what == 996 && Chance(20)) {
      clients_.Drain(toy_.clock().Now() + absl::Milliseconds(Pick(0, 3000)));
    } else if (what == 997 && Chance(10)) {
      toy_.control().fail_at_step = toy_.control().steps + Pick(0, 5);
      clients_.ExpectDeviceFault();
    } else {
      toy_.Settle();
      clients_.Poll();
    }
  }

  // As the engine thread does: after a round that did nothing it sleeps until a message or NextWake.
  void RunEngine() {
    if (toy_.engine().RunOnce() || toy_.engine().NextWake() <= toy_.clock().Now()) return;
    Expect(!toy_.engine().RunOnce(),
           absl::StrCat("the engine slept though there was work: ", clients_.DescribeLive()));
  }

  void RunEmitter() {
    toy_.emitter().RunOnce();
    clients_.Poll();
  }

  std::string Principal() { return absl::StrCat("principal", Pick(0, 2)); }

  std::unique_ptr<TurnRequest> RandomRequest() {
    auto request = std::make_unique<TurnRequest>();
    request->principal.name = Principal();
    RandomPrompt(request.get());
    request->max_tokens = Chance(10) ? 0 : Pick(1, Chance(80) ? 20 : 150);
    request->priority = Chance(20) ? Pick(-2, 2) : 0;
    if (Chance(10)) request->priority = Chance(50) ? INT32_MAX : INT32_MIN;
    request->ignore_eos = Chance(40);
    if (Chance(60)) {
      clients_.ChooseSession(random_, request.get());
      if (Chance(10)) request->expected_position = Pick(0, 100);
      request->append = request->session_id.empty() || !Chance(25);
    } else if (Chance(60)) {
      request->keep_session = true;
    } else if (Chance(40)) {
      request->n = Pick(1, config_.max_batch_sessions + (Chance(10) ? 1 : 0));
    }
    if (Chance(15)) request->deadline = toy_.clock().Now() + absl::Milliseconds(Pick(0, 4000));
    RandomSampling(request.get());
    return request;
  }

  void RandomPrompt(TurnRequest* request) {
    int32_t length = Chance(10) ? 0 : Pick(1, Chance(80) ? 40 : 300);
    if (Chance(30)) length = kPageTokens * Pick(1, 3) - Pick(0, 15);  // soon at a page's edge
    if (Chance(20)) {
      std::string text;
      for (int32_t i = 0; i < length; ++i) text += static_cast<char>(Chance(1) ? '!' : Pick('a', 'z'));
      request->prompt = text;
      return;
    }
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < length; ++i) ids.push_back(Pick(0, kVocab - 2));
    if (length > 0 && Chance(2)) ids[Pick(0, length - 1)] = kPoison;
    if (length > 0 && Chance(1)) ids[Pick(0, length - 1)] = kVocab + Pick(0, 5);
    request->prompt = ids;
  }

  void RandomSampling(TurnRequest* request) {
    SampleParams& params = request->sampling;
    params.temperature = Chance(50) ? 0.0f : 1.0f;
    params.seed = static_cast<uint64_t>(Pick(0, 1000));
    if (Chance(15)) params.presence_penalty = 0.5f;
    if (Chance(10)) params.min_tokens = Pick(1, 10);
    if (Chance(10)) params.top_logprobs = Pick(0, 3);
    if (Chance(15)) request->prompt_logprobs = Pick(0, 2);
    if (Chance(20)) request->stop_token_ids = {Pick(2, kVocab - 2), Pick(2, kVocab - 2)};
    if (Chance(30)) {
      for (int32_t i = Pick(1, 3); i > 0; --i) {
        std::string stop(1, static_cast<char>(Pick('a', 'z')));
        if (Chance(50)) stop += static_cast<char>(Pick('a', 'z'));
        if (Chance(10)) stop = "\xc3\xa9";
        request->stop.push_back(stop);
      }
      request->include_stop = Chance(50);
    }
    request->skip_special_tokens = Chance(50);
  }

  // Lets everything come to its end.
  void Finish() {
    clients_.UnpauseAll();
    // Every turn needs at most its rows, times what recomputation after preemption costs.
    for (int32_t i = 0; i < 200000 && clients_.live() > 0 && Ok(); ++i) {
      toy_.pool().RunOne();
      RunEngine();
      RunEmitter();
    }
    Expect(clients_.live() == 0, absl::StrCat("every turn ends; still live: ", clients_.DescribeLive()));
    toy_.Settle();
    clients_.Poll();
  }

  void CheckRest() {
    for (int32_t i = 0; i < config_.max_waiting; ++i)
      Expect(toy_.engine().TryReserveWaiting(), "the queue is empty");
    for (int32_t i = 0; i < config_.max_waiting; ++i) toy_.engine().ReleaseWaiting();
    const CoreStatus status = toy_.core().Status();
    Expect(toy_.engine().idle(), "the engine is at rest");
    Expect(toy_.engine().CountOrphanPages() == 0, "no orphan pages");
    Expect(status.running == 0 && status.waiting == 0, "nothing runs or waits");
    Expect(static_cast<int64_t>(status.generated_tokens) == clients_.result().tokens,
           "generated tokens are those that were sent");
    if (!toy_.control().errors.empty()) Expect(false, toy_.control().errors.front());
    clients_.CheckSessions();
    toy_.clock().Advance(config_.idle_state_ttl);
    toy_.Settle();
    const CoreStatus rest = toy_.core().Status();
    Expect(rest.pages_free == rest.pages_total, "all pages are free at the end");
    Expect(rest.open_pages_free == rest.open_pages_total, "all open pages are free at the end");
    Expect(rest.step_age == absl::ZeroDuration(), "nothing to do is no age");
  }

  std::mt19937_64 random_;
  const ToyConfig config_;
  const int32_t emitter_share_ =
      Pick(20, 300);  // of the steps of a simulation, in thousandths: it may lag behind
  ToyCore toy_;
  SimulatedClients clients_;
};

}  // namespace

SimulationResult Simulate(uint64_t seed) { return Simulation(seed).Run(); }

}  // namespace sessa::toy
