// The whole core on one thread, over the toy backend: whoever owns it turns the clock and runs engine,
// emitter and tokenizer pool.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/core_impl.h"
#include "tests/scheduler/recording_sink.h"
#include "tests/scheduler/toy_ops.h"

namespace sessa::toy {

class ManualClock : public Clock {
 public:
  absl::Time Now() const override { return now_; }
  void Advance(absl::Duration by) { now_ += by; }

 private:
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
};

// Keeps tasks until they are run by hand.
class ManualExecutor : public Executor {
 public:
  void Post(Task task) override { tasks_.push_back(std::move(task)); }
  bool RunOne() {
    if (tasks_.empty()) return false;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    task();
    return true;
  }

 private:
  std::deque<Task> tasks_;
};

// One byte a token: 2..27 are a..z, 28..53 as well (so that text does not tell the token), 54 and 55 the two
// bytes of an e with acute accent, the rest capitals.
class ToyTokenizer : public Tokenizer {
 public:
  ToyTokenizer();
  int32_t vocab_size() const override { return kVocab; }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const override;
  absl::string_view TokenBytes(int32_t id) const override { return bytes_[id]; }
  absl::string_view TokenName(int32_t id) const override { return id == kBos ? "<s>" : "</s>"; }
  bool IsSpecial(int32_t id) const override { return id == kBos || id == kEos; }

 private:
  std::vector<std::string> bytes_;
};

struct ToyConfig {
  ToyOps::Options ops;
  int32_t state_pages = 64;
  int32_t open_pages = 16;
  int64_t max_context = 1024;
  int32_t max_waiting = 1024;
  int32_t max_batch_sessions = 16;
  int32_t max_sessions = 1000;
  absl::Duration priority_aging = absl::Seconds(10);
  absl::Duration idle_state_ttl = absl::Minutes(10), idle_session_ttl = absl::Hours(24);
  int32_t bos = kBos, eos = kEos;
  std::shared_ptr<const ToyTokenizer> tokenizer = std::make_shared<ToyTokenizer>();
  CoreHooks hooks;
};

// A request with what tests vary most; the rest is set on the result.
std::unique_ptr<TurnRequest> Request(std::string id, std::vector<int32_t> prompt, int32_t max_tokens,
                                     std::shared_ptr<RecordingSink> sink);

class ToyCore {
 public:
  explicit ToyCore(const ToyConfig& config);

  Core& core() { return *core_; }
  Engine& engine() { return core_->engine(); }
  Emitter& emitter() { return core_->emitter(); }
  ManualClock& clock() { return clock_; }
  ManualExecutor& pool() { return pool_; }
  Control& control() { return *control_; }
  const ToyConfig& config() const { return config_; }

  const Tokenizer& tokenizer() { return *config_.tokenizer; }

  // Runs everything until nothing moves.
  void Settle();
  // Submits (which must be accepted), settles and returns what was recorded.
  TurnRecord Run(std::unique_ptr<TurnRequest> request);
  // An answer of the engine to a question about sessions.
  absl::StatusOr<SessionInfo> GetSession(const std::string& id);

  // Greedy continuation of `prefix` by the toy model alone, without ends.
  std::vector<int32_t> Expected(const std::vector<int32_t>& prefix, int32_t count) const;

 private:
  const ToyConfig config_;
  const std::shared_ptr<Control> control_ = std::make_shared<Control>();
  ManualClock clock_;
  ManualExecutor pool_;
  std::unique_ptr<CoreImpl> core_;
};

}  // namespace sessa::toy
