// Calls of several turns: what holds their next one up, and what a drain lets them do.
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/scheduler/toy_core.h"

namespace sessa::toy {
namespace {

TEST(PauseTest, ATurnMayBeginPaused) {
  ToyCore toy({});
  const auto sink = std::make_shared<RecordingSink>();
  auto request = Request("turn", {kBos, 5, 6}, 3, sink);
  request->paused = true;
  ASSERT_TRUE(toy.core().Submit(std::move(request)).ok());
  toy.Settle();
  EXPECT_EQ(toy.control().steps, 0);
  EXPECT_FALSE(sink->record().started);
  toy.core().SetPaused({}, "turn", false);
  toy.Settle();
  EXPECT_TRUE(sink->record().finished);
}

// A sink that submits another turn of its call when it is told of an end.
class ChainSink : public RecordingSink {
 public:
  ChainSink(Core* core, int32_t turns) : core_(core), turns_(turns) {}
  void OnFinished(FinishedEvent event) override {
    RecordingSink::OnFinished(event);
    if (turns_ == 1) return;
    next_ = std::make_shared<ChainSink>(core_, turns_ - 1);
    EXPECT_TRUE(core_->Submit(next_->Turn()).ok());
  }
  std::unique_ptr<TurnRequest> Turn() {
    auto request = Request(absl::StrCat("link", turns_), {kBos, 5, 6}, 3, nullptr);
    request->sink = std::shared_ptr<ChainSink>(this, [](ChainSink*) {});
    request->ignore_eos = true;
    request->continues = true;
    return request;
  }
  const ChainSink* next() const { return next_.get(); }

 private:
  Core* const core_;
  const int32_t turns_;
  std::shared_ptr<ChainSink> next_;
};

TEST(DrainTest, ACallThatRunsMaySubmitItsFurtherTurns) {
  ToyCore toy({});
  ChainSink first(&toy.core(), 3);
  ASSERT_TRUE(toy.core().Submit(first.Turn()).ok());
  toy.engine().RunOnce();
  bool drained = false, over_before = false;
  toy.core().Drain(toy.clock().Now() + absl::Seconds(1), [&] {
    drained = true;
    over_before = first.next() != nullptr && first.next()->next() != nullptr && first.next()->next()->over();
  });
  toy.Settle();
  EXPECT_TRUE(drained);
  EXPECT_TRUE(over_before) << "drained between two turns of a call";
}

TEST(DrainTest, UntilTheDeadline) {
  ToyCore toy({});
  bool drained = false;
  toy.core().Drain(toy.clock().Now(), [&] { drained = true; });
  toy.Settle();
  ASSERT_TRUE(drained);
  ChainSink late(&toy.core(), 1);
  ASSERT_TRUE(toy.core().Submit(late.Turn()).ok());
  toy.Settle();
  EXPECT_EQ(late.record().samples[0].finished->reason, FinishReason::kDrained);
}

}  // namespace
}  // namespace sessa::toy
