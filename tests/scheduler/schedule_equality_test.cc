// The equality of docs/design.md on the host backends: tokens and logits of a session are the same, bit for
// bit, alone and in company, however prompts are cut into chunks, and whether its state stayed in pages or
// was evicted, preempted and computed again.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/reference/reference_ops.h"
#include "tests/scheduler/forwarding_ops.h"
#include "tests/scheduler/toy_core.h"
#include "tools/random_weights.h"

namespace sessa {
namespace {

// Logits by (session, position of the token that they predict).
using LogitsMap = std::map<std::pair<uint64_t, int64_t>, std::vector<float>>;

// Writes down all logits. A session is told by the seed of its turns. Steps take a time of their rows, so
// that a seed's schedule is always the same.
class RecordingOps : public ForwardingOps {
 public:
  RecordingOps(std::unique_ptr<Ops> ops, LogitsMap* logits, std::string* difference)
      : ForwardingOps(std::move(ops)), logits_(*logits), difference_(*difference) {}

  void BeginStep(const StepBatch& batch) override {
    batch_ = &batch;
    ForwardingOps::BeginStep(batch);
  }
  absl::StatusOr<StepResult> Collect() override {
    absl::StatusOr<StepResult> result = ForwardingOps::Collect();
    result->device_seconds = 1e-4 * (1 + batch_->rows());
    for (size_t i = 0; i < batch_->outputs.size(); ++i) {
      const OutputRow& output = batch_->outputs[i];
      std::vector<float> logits = ReadLogits(static_cast<int32_t>(i)).value();
      const auto [it, is_new] = logits_.try_emplace({output.params->seed, output.position}, logits);
      const bool same = std::memcmp(it->second.data(), logits.data(), logits.size() * sizeof(float)) == 0;
      if (!is_new && !same && difference_.empty()) {
        difference_ =
            absl::StrCat("logits of session ", output.params->seed, " at position ", output.position);
      }
    }
    return result;
  }

 private:
  LogitsMap& logits_;
  std::string& difference_;
  const StepBatch* batch_ = nullptr;
};

struct ScriptTurn {
  std::vector<int32_t> prompt;
  int32_t max_tokens;
  float temperature;
};
using Script = std::vector<std::vector<ScriptTurn>>;  // the turns of each session

struct Room {  // what a run has
  int32_t max_rows, max_batch_sessions, state_pages, open_pages, cpu_threads;
};

class ScheduleRun {
 public:
  ScheduleRun(CreateOpsFn create, const ModelShape& shape, const ModelTensors& tensors, StateDtype dtype,
              const Room& room, LogitsMap* logits, std::string* difference) {
    OpsOptions ops_options;
    ops_options.max_rows = room.max_rows;
    ops_options.max_segments = room.max_batch_sessions;
    ops_options.state_dtype = dtype;
    ops_options.cpu_threads = room.cpu_threads;
    std::unique_ptr<Ops> ops = create(shape, tensors, ops_options).value();
    CoreOptions options;
    options.shape = shape;
    options.max_batch_tokens = room.max_rows;
    options.max_batch_sessions = room.max_batch_sessions;
    options.state_pages = room.state_pages;
    options.open_pages = ops->layout().has_open_pages() ? room.open_pages : 0;
    options.idle_state_ttl = absl::Seconds(100);
    EXPECT_TRUE(ops->AllocateState(options.state_pages, options.open_pages).ok());
    CoreSeams seams;
    seams.tokenizer_pool = &pool_;
    seams.make_session_id = [next = 0]() mutable { return absl::StrCat("session", next++); };
    core_ = std::make_unique<CoreImpl>(options,
                                       std::make_unique<RecordingOps>(std::move(ops), logits, difference),
                                       nullptr, CoreHooks(), &clock_, std::move(seams));
  }

  // Submits the session's next turn.
  std::shared_ptr<RecordingSink> Submit(const ScriptTurn& turn, size_t session) {
    auto sink = std::make_shared<RecordingSink>();
    auto request = toy::Request(absl::StrCat("request", next_request_++), turn.prompt, turn.max_tokens, sink);
    request->sampling.temperature = turn.temperature;
    request->sampling.seed = session + 1;
    request->keep_session = ids_[session].empty();
    request->session_id = ids_[session];
    EXPECT_TRUE(core_->Submit(std::move(request)).ok());
    return sink;
  }
  void Step() {
    core_->engine().RunOnce();
    core_->emitter().RunOnce();
  }

  // One session after the other.
  std::vector<std::vector<int32_t>> Alone(const Script& script) {
    std::vector<std::vector<int32_t>> tokens(script.size());
    for (size_t session = 0; session < script.size(); ++session) {
      for (const ScriptTurn& turn : script[session]) {
        const auto sink = Submit(turn, session);
        while (!sink->over()) Step();
        End(*sink, session, &tokens);
      }
    }
    return tokens;
  }

  // All of them at once, at random moments, with evictions in between.
  std::vector<std::vector<int32_t>> InCompany(const Script& script, std::mt19937* random) {
    std::vector<std::vector<int32_t>> tokens(script.size());
    std::vector<std::shared_ptr<RecordingSink>> sinks(script.size());
    std::vector<size_t> next(script.size(), 0);
    for (bool open = true; open;) {
      open = false;
      for (size_t session = 0; session < script.size(); ++session) {
        if (sinks[session] && sinks[session]->over()) {
          End(*sinks[session], session, &tokens);
          sinks[session] = nullptr;
        }
        open = open || sinks[session] || next[session] < script[session].size();
        if (sinks[session] || next[session] == script[session].size() || (*random)() % 4 != 0) continue;
        sinks[session] = Submit(script[session][next[session]++], session);
      }
      if ((*random)() % 16 == 0) clock_.Advance(absl::Seconds((*random)() % 200));
      Step();
    }
    return tokens;
  }

  CoreStatus status() const { return core_->Status(); }

 private:
  void End(const RecordingSink& sink, size_t session, std::vector<std::vector<int32_t>>* tokens) {
    const TurnRecord record = sink.record();
    ASSERT_TRUE(record.finished) << *record.error;
    ids_[session] = record.started->session_id;
    const std::vector<int32_t>& got = record.samples[0].tokens;
    (*tokens)[session].insert((*tokens)[session].end(), got.begin(), got.end());
  }

  toy::ManualClock clock_;
  toy::ManualExecutor pool_;
  std::map<size_t, std::string> ids_;
  int32_t next_request_ = 0;
  std::unique_ptr<CoreImpl> core_;
};

ModelShape RandomShape(std::mt19937* random) {
  static const int32_t kShapes[][4] = {
      {16, 1, 1, 1}, {16, 2, 2, 1}, {24, 2, 3, 3}, {32, 1, 4, 2}};  // D, L, H, Hkv
  const int32_t* pick = kShapes[(*random)() % 4];
  ModelShape shape;
  shape.vocab = 61;
  shape.width = pick[0];
  shape.layers = pick[1];
  shape.heads = pick[2];
  shape.kv_heads = pick[3];
  return shape;
}

Script RandomScript(std::mt19937* random) {
  Script script(2 + (*random)() % 4);
  for (auto& turns : script) {
    turns.resize(1 + (*random)() % 3);
    for (ScriptTurn& turn : turns) {
      turn.prompt.resize(1 + (*random)() % 80);
      for (int32_t& token : turn.prompt) token = static_cast<int32_t>((*random)() % 61);
      turn.max_tokens = 1 + (*random)() % 60;
      turn.temperature = (*random)() % 2 ? 1.0f : 0.0f;
    }
  }
  return script;
}

struct Totals {
  uint64_t recomputed = 0, preemptions = 0, evictions = 0;
};

std::string Difference(CreateOpsFn create, uint32_t seed, Totals* totals) {
  std::mt19937 random(seed);
  const ModelShape shape = RandomShape(&random);
  const RandomWeights weights(shape, seed);
  const StateDtype dtype = random() % 2 ? StateDtype::kCompact : StateDtype::kF32;
  const Script script = RandomScript(&random);
  LogitsMap logits;
  std::string difference;
  const auto alone =
      ScheduleRun(create, shape, weights.tensors(), dtype, {300, 1, 20, 4, 1}, &logits, &difference)
          .Alone(script);
  // A session has at most 420 tokens: 7 pages. Little more than that makes the sessions fight for them.
  const int32_t places = 2 + random() % 5;
  const Room room = {places + static_cast<int32_t>(random() % 40), places,
                     7 + static_cast<int32_t>(random() % 4), 1 + static_cast<int32_t>(random() % 5), 2};
  ScheduleRun run(create, shape, weights.tensors(), dtype, room, &logits, &difference);
  const auto together = run.InCompany(script, &random);
  totals->recomputed += run.status().recomputed_tokens;
  totals->preemptions += run.status().preemptions;
  totals->evictions += run.status().state_evictions;
  if (difference.empty() && alone != together) difference = "tokens";
  return difference;
}

void ExpectEquality(CreateOpsFn create, uint32_t schedules) {
  Totals totals;
  for (uint32_t seed = 1; seed <= schedules; ++seed) {
    ASSERT_EQ(Difference(create, seed, &totals), "") << "seed " << seed;
  }
  EXPECT_GT(totals.recomputed, 0);
  EXPECT_GT(totals.preemptions, 0);
  EXPECT_GT(totals.evictions, 0);
}

#if defined(__SANITIZE_THREAD__)
constexpr uint32_t kSchedules = 20;
#else
constexpr uint32_t kSchedules = 300;
#endif

TEST(ScheduleEqualityTest, ReferenceBackend) { ExpectEquality(CreateReferenceOps, kSchedules); }
TEST(ScheduleEqualityTest, CpuBackend) { ExpectEquality(CreateCpuOps, kSchedules); }

}  // namespace
}  // namespace sessa
