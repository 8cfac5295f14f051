// The order in which text work runs.
#include "scheduler/text_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/scheduler/toy_core.h"

namespace sessa::toy {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int64_t kShort = 10, kLong = TextQueue::kLongBytes + 1;

class TextQueueTest : public testing::Test {
 protected:
  Task Work(std::string name) {
    return [this, name] { ran_.push_back(name); };
  }
  // Work during which the pool's other threads go on until they find nothing to do.
  Task Meanwhile(std::string name) {
    return [this, name] {
      while (pool_.RunOne()) {
      }
      ran_.push_back(name);
    };
  }
  void RunAll() {
    while (pool_.RunOne()) {
    }
  }

  ManualExecutor pool_;
  std::vector<std::string> ran_;
};

TEST_F(TextQueueTest, ATurnGoesBeforeCalls) {
  TextQueue queue(&pool_, 1);
  queue.Post(TextUse::kCall, kLong, Work("call 1"));
  queue.Post(TextUse::kCall, kShort, Work("call 2"));
  queue.Post(TextUse::kTurn, kLong, Work("turn 1"));
  queue.Post(TextUse::kTurn, kShort, Work("turn 2"));
  RunAll();
  EXPECT_THAT(ran_, ElementsAre("turn 1", "turn 2", "call 1", "call 2"));
}

TEST_F(TextQueueTest, LongWorkLeavesAThread) {
  TextQueue queue(&pool_, 2);
  queue.Post(TextUse::kTurn, kLong, Meanwhile("long 1"));
  queue.Post(TextUse::kTurn, kLong, Meanwhile("long 2"));
  queue.Post(TextUse::kCall, kLong, Meanwhile("long 3"));
  queue.Post(TextUse::kTurn, kShort, Work("short turn"));
  queue.Post(TextUse::kCall, kShort, Work("short call"));
  RunAll();
  EXPECT_THAT(ran_, ElementsAre("short turn", "short call", "long 1", "long 2", "long 3"))
      << "the second thread ran what is short while the first was at it, and nothing was forgotten";
}

TEST_F(TextQueueTest, AnOnlyThreadTakesLongWorkToo) {
  TextQueue queue(&pool_, 1);
  queue.Post(TextUse::kCall, kLong, Work("long"));
  RunAll();
  EXPECT_THAT(ran_, ElementsAre("long"));
}

// --- prompts of turns

class CountingTokenizer : public ToyTokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const override {
    ++encoded;
    return ToyTokenizer::Encode(text);
  }
  mutable int32_t encoded = 0;
};

TEST(PromptTest, OfATurnThatIsOverIsNotEncoded) {
  ToyConfig config;
  const auto tokenizer = std::make_shared<CountingTokenizer>();
  config.tokenizer = tokenizer;
  ToyCore toy(config);
  for (const char* id : {"a", "b"}) {
    auto request = Request(id, {}, 1, std::make_shared<RecordingSink>());
    request->prompt = std::string("abc");
    ASSERT_TRUE(toy.core().Submit(std::move(request)).ok());
  }
  toy.core().Cancel({}, "a");
  toy.engine().RunOnce();
  toy.Settle();
  EXPECT_EQ(tokenizer->encoded, 1);
}

}  // namespace
}  // namespace sessa::toy
