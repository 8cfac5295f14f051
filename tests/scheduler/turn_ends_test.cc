// Refusals, and the ends that come from outside: cancels, deadlines, drains, faults.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "runtime/base/errors.h"
#include "tests/scheduler/toy_core.h"

namespace sessa::toy {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

std::shared_ptr<RecordingSink> Sink(int32_t n = 1) { return std::make_shared<RecordingSink>(n); }

std::vector<int32_t> Prompt(int32_t length) {
  std::vector<int32_t> prompt = {kBos};
  while (static_cast<int32_t>(prompt.size()) < length) prompt.push_back(2 + prompt.size() % 50);
  return prompt;
}

// A turn that would go on for long.
std::unique_ptr<TurnRequest> LongTurn(std::string id, std::shared_ptr<RecordingSink> sink,
                                      int32_t prompt = 10) {
  auto request = Request(std::move(id), Prompt(prompt), 500, std::move(sink));
  request->ignore_eos = true;
  return request;
}

std::string KeptSession(ToyCore& toy, int32_t length = 10) {
  auto request = Request("kept", Prompt(length), 0, Sink());
  request->keep_session = true;
  return toy.Run(std::move(request)).started->session_id;
}

void ExpectError(const TurnRecord& record, absl::StatusCode code, const std::string& reason,
                 const std::string& text) {
  EXPECT_THAT(record.broken, IsEmpty());
  ASSERT_TRUE(record.error);
  EXPECT_EQ(record.error->code(), code) << *record.error;
  EXPECT_EQ(GetErrorDetail(*record.error).reason, reason);
  EXPECT_THAT(std::string(record.error->message()), HasSubstr(text));
}

TEST(RefusalTest, ForeignAndMissingSessionsLookTheSame) {
  ToyCore toy({});
  const std::string id = KeptSession(toy);
  auto foreign = Request("a", {5}, 1, Sink());
  foreign->session_id = id;
  foreign->principal.name = "somebody else";
  auto missing = Request("b", {5}, 1, Sink());
  missing->session_id = std::string(32, '0');
  const TurnRecord one = toy.Run(std::move(foreign)), two = toy.Run(std::move(missing));
  ExpectError(one, absl::StatusCode::kNotFound, "SESSION_NOT_FOUND", "");
  ExpectError(two, absl::StatusCode::kNotFound, "SESSION_NOT_FOUND", "");
  EXPECT_EQ(one.error->message(), two.error->message());
}

TEST(RefusalTest, SecondWriterIsAborted) {
  ToyCore toy({});
  const std::string id = KeptSession(toy);
  const auto first = Sink();
  auto running = LongTurn("a", first);
  running->session_id = id;
  ASSERT_TRUE(toy.core().Submit(std::move(running)).ok());
  for (int32_t i = 0; i < 5; ++i) toy.engine().RunOnce();
  auto second = Request("b", {5}, 1, Sink());
  second->session_id = id;
  const auto sink = std::static_pointer_cast<RecordingSink>(second->sink);
  ASSERT_TRUE(toy.core().Submit(std::move(second)).ok());
  toy.engine().RunOnce();
  toy.emitter().RunOnce();
  ExpectError(sink->record(), absl::StatusCode::kAborted, "SESSION_BUSY", "another turn");
  EXPECT_FALSE(first->over());
}

TEST(RefusalTest, ExpectedPositionTellsTheRealOne) {
  ToyCore toy({});
  auto request = Request("a", {5}, 1, Sink());
  request->session_id = KeptSession(toy, 10);
  request->expected_position = 9;
  ExpectError(toy.Run(std::move(request)), absl::StatusCode::kAborted, "POSITION_MISMATCH", "has 10 tokens");
}

TEST(RefusalTest, PromptsThatCannotBe) {
  ToyConfig config;
  config.max_context = 400;
  config.state_pages = 4;
  ToyCore toy(config);
  TurnRecord record = toy.Run(Request("a", {}, 1, Sink()));
  ExpectError(record, absl::StatusCode::kInvalidArgument, "INVALID_FIELD", "needs a prompt");
  EXPECT_EQ(GetErrorDetail(*record.error).field, "prompt");
  record = toy.Run(Request("b", {5, kVocab}, 1, Sink()));
  ExpectError(record, absl::StatusCode::kInvalidArgument, "INVALID_FIELD", "97");
  EXPECT_EQ(GetErrorDetail(*record.error).field, "prompt.token_ids[1]");
  record = toy.Run(Request("c", Prompt(401), 1, Sink()));
  ExpectError(record, absl::StatusCode::kInvalidArgument, "PROMPT_TOO_LONG", "401 tokens, the limit is 400");
  record = toy.Run(Request("d", Prompt(300), 1, Sink()));
  ExpectError(record, absl::StatusCode::kFailedPrecondition, "STATE_MEMORY_TOO_SMALL", "256");
  auto text = Request("e", {}, 1, Sink());
  text->prompt = "Not Lower Case";
  ExpectError(toy.Run(std::move(text)), absl::StatusCode::kInvalidArgument, "INVALID_FIELD", "");
  EXPECT_EQ(toy.core().Status().waiting, 0);
}

TEST(RefusalTest, SeveralSamplesOfAKeptSession) {
  ToyCore toy({});
  auto request = Request("a", {5}, 1, Sink());
  request->n = 2;
  request->keep_session = true;
  const absl::Status status = toy.core().Submit(std::move(request));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetErrorDetail(status).field, "sampling.n");
}

TEST(RefusalTest, SameRequestIdTwiceAtOnce) {
  ToyCore toy({});
  ASSERT_TRUE(toy.core().Submit(LongTurn("a", Sink())).ok());
  toy.engine().RunOnce();
  const auto second = Sink();
  ASSERT_TRUE(toy.core().Submit(LongTurn("a", second)).ok());
  toy.engine().RunOnce();
  toy.emitter().RunOnce();
  ExpectError(second->record(), absl::StatusCode::kAlreadyExists, "REQUEST_ID_IN_USE", "");
}

TEST(RefusalTest, FullQueueShedsWithADelay) {
  ToyConfig config;
  config.max_waiting = 2;
  ToyCore toy(config);
  EXPECT_TRUE(toy.core().Submit(LongTurn("a", Sink())).ok());
  EXPECT_TRUE(toy.core().Submit(LongTurn("b", Sink())).ok());
  const auto sink = Sink();
  const absl::Status status = toy.core().Submit(LongTurn("c", sink));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(GetErrorDetail(status).reason, "QUEUE_FULL");
  EXPECT_TRUE(GetErrorDetail(status).retry_after.has_value());
  for (int32_t i = 0; i < 3; ++i) toy.engine().RunOnce();
  EXPECT_TRUE(toy.core().Submit(LongTurn("d", Sink())).ok()) << "those that run wait no more";
  EXPECT_FALSE(sink->over());
}

// --- every point of a turn's life ---

enum class Point { kTokenizing, kWaiting, kPrefilling, kDecoding };
std::string Name(const testing::TestParamInfo<Point>& info) {
  return std::vector<std::string>{"Tokenizing", "Waiting", "Prefilling",
                                  "Decoding"}[static_cast<int>(info.param)];
}

class EveryPointTest : public testing::TestWithParam<Point> {
 protected:
  EveryPointTest() : toy_(Config()) {}
  static ToyConfig Config() {
    ToyConfig config;
    config.max_batch_sessions = 1;
    config.ops.max_rows = 16;
    return config;
  }

  // A turn of a kept session of 10 tokens, brought to the point.
  void Bring() {
    session_ = KeptSession(toy_);
    if (GetParam() == Point::kWaiting) {  // another one has the only place
      ASSERT_TRUE(toy_.core().Submit(LongTurn("other", other_)).ok());
      Rounds(2);
    }
    auto request = LongTurn("turn", sink_, 100);
    if (GetParam() == Point::kTokenizing) request->prompt = std::string("abc");
    request->session_id = session_;
    request->deadline = toy_.clock().Now() + absl::Seconds(5);
    ASSERT_TRUE(toy_.core().Submit(std::move(request)).ok());
    Rounds(GetParam() == Point::kPrefilling ? 2 : 12);
    const TurnRecord record = sink_->record();
    ASSERT_FALSE(record.over());
    ASSERT_EQ(record.started.has_value(), GetParam() >= Point::kPrefilling);
    ASSERT_EQ(record.samples[0].tokens.empty(), GetParam() < Point::kDecoding);
  }
  void Rounds(int32_t rounds) {
    for (int32_t i = 0; i < rounds; ++i) {
      toy_.engine().RunOnce();
      toy_.emitter().RunOnce();
    }
  }
  // The turn ended for `reason`, the session has exactly what was told and can be used again.
  void ExpectEnd(FinishReason reason) {
    Rounds(1);
    const TurnRecord record = sink_->record();
    EXPECT_THAT(record.broken, IsEmpty());
    ASSERT_TRUE(record.finished);
    EXPECT_EQ(record.samples[0].finished->reason, reason);
    const int64_t told = record.started ? record.started->position + record.started->prompt_tokens +
                                              static_cast<int64_t>(record.samples[0].tokens.size())
                                        : 10;
    EXPECT_EQ(record.finished->position, told);
    ExpectUsable(told);
  }
  // The turn has left nothing behind but these tokens.
  void ExpectUsable(int64_t tokens) {
    toy_.core().Cancel({}, "other");
    toy_.Settle();  // with what the tokenizer pool still had
    EXPECT_EQ(toy_.GetSession(session_)->position, tokens);
    EXPECT_FALSE(toy_.GetSession(session_)->busy);
    auto next = Request("next", {5}, 1, Sink());
    next->session_id = session_;
    EXPECT_TRUE(toy_.Run(std::move(next)).finished);
    EXPECT_EQ(toy_.engine().CountOrphanPages(), 0);
  }

  ToyCore toy_;
  std::string session_;
  std::shared_ptr<RecordingSink> sink_ = Sink(), other_ = Sink();
};
INSTANTIATE_TEST_SUITE_P(, EveryPointTest,
                         testing::Values(Point::kTokenizing, Point::kWaiting, Point::kPrefilling,
                                         Point::kDecoding),
                         Name);

TEST_P(EveryPointTest, Cancel) {
  Bring();
  toy_.core().Cancel({}, "turn");
  ExpectEnd(FinishReason::kCancelled);
}

TEST_P(EveryPointTest, Deadline) {
  Bring();
  const int64_t steps = toy_.control().steps;
  toy_.clock().Advance(absl::Seconds(5));
  if (GetParam() >= Point::kPrefilling) return ExpectEnd(FinishReason::kDeadline);
  Rounds(1);
  ExpectError(sink_->record(), absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED",
              "before the turn began");
  EXPECT_FALSE(sink_->record().samples[0].finished);
  ExpectUsable(10);
  if (GetParam() == Point::kTokenizing) {
    EXPECT_EQ(toy_.control().steps, steps + 1)
        << "nothing is prefilled for it; one step of the turn after it";
  }
}

TEST_P(EveryPointTest, CancelOnItsSession) {
  Bring();
  std::string running;
  toy_.core().GetSession(
      {}, session_, [&running](absl::StatusOr<SessionInfo> info) { running = info->running_request_id; });
  toy_.core().CancelOnSession({"somebody else"}, session_);
  Rounds(1);
  EXPECT_EQ(running, "turn");
  EXPECT_FALSE(sink_->over());
  toy_.core().CancelOnSession({}, session_);
  ExpectEnd(FinishReason::kCancelled);
  EXPECT_EQ(toy_.GetSession(session_)->running_request_id, "");
}

TEST_P(EveryPointTest, Drain) {
  Bring();
  bool drained = false;
  toy_.core().Drain(toy_.clock().Now() + absl::Seconds(1), [&drained] { drained = true; });
  Rounds(1);
  EXPECT_FALSE(sink_->over());
  EXPECT_EQ(GetErrorDetail(toy_.core().Submit(LongTurn("late", Sink()))).reason, "DRAINING");
  EXPECT_FALSE(toy_.core().Status().serving);
  toy_.clock().Advance(absl::Seconds(1));
  Rounds(1);
  ASSERT_TRUE(sink_->over());
  EXPECT_EQ(sink_->record().samples[0].finished->reason, FinishReason::kDrained);
  Rounds(2);
  EXPECT_TRUE(drained);
}

TEST_P(EveryPointTest, CancelWithAnError) {
  Bring();
  toy_.core().Cancel({}, "turn", absl::ResourceExhaustedError("the reader is too slow"));
  Rounds(1);
  ASSERT_TRUE(sink_->over());
  EXPECT_EQ(sink_->record().error->message(), "the reader is too slow");
  EXPECT_FALSE(toy_.GetSession(session_)->busy);
}

TEST_P(EveryPointTest, DeleteSession) {
  Bring();
  absl::Status deleted = absl::UnknownError("no answer");
  toy_.core().DeleteSession({}, session_, [&deleted](absl::Status status) { deleted = std::move(status); });
  Rounds(1);
  EXPECT_TRUE(deleted.ok());
  ASSERT_TRUE(sink_->over());
  EXPECT_EQ(sink_->record().samples[0].finished->reason, FinishReason::kCancelled);
  EXPECT_EQ(toy_.GetSession(session_).status().code(), absl::StatusCode::kNotFound);
}

TEST_P(EveryPointTest, Pause) {
  Bring();
  toy_.core().SetPaused({}, "turn", true);
  toy_.core().Cancel({}, "other");
  toy_.Settle();
  const size_t told = sink_->record().samples[0].tokens.size();
  toy_.Settle();
  EXPECT_EQ(sink_->record().samples[0].tokens.size(), told) << "a paused turn gets no steps";
  EXPECT_FALSE(sink_->over());
  toy_.core().SetPaused({}, "turn", false);
  toy_.Settle();
  EXPECT_TRUE(sink_->record().finished);
}

TEST_P(EveryPointTest, Shutdown) {
  const auto sink = sink_;
  {
    auto toy = std::make_unique<ToyCore>(Config());
    ASSERT_TRUE(toy->core().Submit(LongTurn("turn", sink, 100)).ok());
    for (int32_t i = 0; i < static_cast<int32_t>(GetParam()) * 4; ++i) toy->engine().RunOnce();
  }
  ExpectError(sink->record(), absl::StatusCode::kUnavailable, "SHUTTING_DOWN", "shuts down");
}

// --- faults ---

TEST(FaultTest, NumbersThatAreNotFiniteEndOnlyTheirTurn) {
  ToyCore toy({});
  const auto good = Sink(), bad = Sink();
  ASSERT_TRUE(toy.core().Submit(LongTurn("good", good)).ok());
  auto poisoned = Request("bad", {kBos, 5, kPoison, 6}, 10, bad);
  poisoned->keep_session = true;
  ASSERT_TRUE(toy.core().Submit(std::move(poisoned)).ok());
  toy.Settle();
  ExpectError(bad->record(), absl::StatusCode::kInternal, "NONFINITE_LOGITS", "not finite");
  EXPECT_EQ(good->record().samples[0].tokens, toy.Expected(Prompt(10), 500));
  const auto session = toy.GetSession(bad->record().started->session_id);
  EXPECT_EQ(session->position, 4) << "the session keeps what it had before the bad token";
  EXPECT_EQ(session->cached_tokens, 0) << "and no state that may be spoilt";
  EXPECT_EQ(toy.core().Status().nonfinite_rows, 1);
}

TEST(FaultTest, DeviceFaultEndsEverythingForGood) {
  absl::Status fatal;
  ToyConfig config;
  config.hooks.on_fatal = [&fatal](const absl::Status& status) { fatal = status; };
  ToyCore toy(config);
  const std::string id = KeptSession(toy);
  const auto running = Sink();
  ASSERT_TRUE(toy.core().Submit(LongTurn("a", running)).ok());
  toy.control().fail_at_step = toy.control().steps + 3;
  toy.Settle();
  ExpectError(running->record(), absl::StatusCode::kUnavailable, "DEVICE_FAILED", "device");
  EXPECT_FALSE(running->record().samples[0].tokens.empty());
  EXPECT_EQ(fatal.message(), "injected device fault");
  const CoreStatus status = toy.core().Status();
  EXPECT_FALSE(status.serving);
  EXPECT_EQ(status.not_serving_reason, "DEVICE_FAILED");
  EXPECT_EQ(status.pages_free, status.pages_total);
  EXPECT_EQ(toy.GetSession(id)->position, 10) << "tokens outlive the device";
  const int64_t steps = toy.control().steps;
  ExpectError(toy.Run(LongTurn("b", Sink())), absl::StatusCode::kUnavailable, "DEVICE_FAILED", "");
  EXPECT_EQ(toy.control().steps, steps) << "a failed device is left alone";
}

}  // namespace
}  // namespace sessa::toy
