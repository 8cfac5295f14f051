// Turns that read a session: they go on from its tokens, share its pages and leave it as it is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/errors.h"
#include "tests/scheduler/toy_core.h"

namespace sessa::toy {
namespace {

constexpr int32_t kLength = 100;  // of the session: into its second page

std::shared_ptr<RecordingSink> Sink() { return std::make_shared<RecordingSink>(1); }

std::vector<int32_t> Story() {
  std::vector<int32_t> tokens = {kBos};
  while (static_cast<int32_t>(tokens.size()) < kLength) tokens.push_back(2 + tokens.size() % 50);
  return tokens;
}

std::vector<int32_t> After(std::vector<int32_t> tokens, const std::vector<int32_t>& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
  return tokens;
}

std::string Tell(ToyCore& toy) {
  auto request = Request("tell", Story(), 0, Sink());
  request->keep_session = true;
  return toy.Run(std::move(request)).started->session_id;
}

std::unique_ptr<TurnRequest> Read(const std::string& id, int32_t max_tokens) {
  auto request = Request("read", {9, 8}, max_tokens, Sink());
  request->session_id = id;
  request->append = false;
  request->ignore_eos = true;
  return request;
}

void ExpectAllFree(ToyCore& toy) {
  const CoreStatus status = toy.core().Status();
  EXPECT_EQ(status.pages_free, status.pages_total);
  EXPECT_EQ(status.open_pages_free, status.open_pages_total);
  EXPECT_EQ(status.orphan_pages, 0);
}

void Delete(ToyCore& toy, const std::string& id) {
  absl::Status deleted = absl::UnknownError("no answer");
  toy.core().DeleteSession({}, id, [&](absl::Status status) { deleted = status; });
  toy.Settle();
  EXPECT_TRUE(deleted.ok()) << deleted;
}

class BranchTest : public testing::TestWithParam<bool> {  // compact state
 protected:
  static ToyConfig Config() {
    ToyConfig config;
    config.ops.compact = GetParam();
    return config;
  }
};
INSTANTIATE_TEST_SUITE_P(States, BranchTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "compact" : "float32"; });

TEST_P(BranchTest, GoesOnFromTheSessionAndLeavesIt) {
  ToyCore toy(Config());
  const std::string id = Tell(toy);
  auto request = Read(id, 3);
  request->prompt_logprobs = 0;
  const TurnRecord read = toy.Run(std::move(request));
  ASSERT_TRUE(read.finished) << *read.error;
  EXPECT_EQ(read.samples[0].tokens, toy.Expected(After(Story(), {9, 8}), 3));
  EXPECT_EQ(read.prompt_logprobs.size(), 2);
  EXPECT_EQ(read.started->session_id, id);
  EXPECT_EQ(read.started->position, kLength);
  EXPECT_GE(read.finished->cached_tokens, kPageTokens) << "what the session has is not computed again";
  EXPECT_EQ(toy.GetSession(id)->position, kLength);
  EXPECT_EQ(toy.GetSession(id)->cached_tokens, kLength);

  auto next = Request("next", {7}, 4, Sink());
  next->session_id = id;
  next->ignore_eos = true;
  EXPECT_EQ(toy.Run(std::move(next)).samples[0].tokens, toy.Expected(After(Story(), {7}), 4));
  Delete(toy, id);
  ExpectAllFree(toy);
}

TEST_P(BranchTest, TheSessionMayGoOnOrGoMeanwhile) {
  for (const bool deleted : {false, true}) {
    ToyCore toy(Config());
    const std::string id = Tell(toy);
    auto request = Read(id, 90);  // over two page edges
    const auto sink = std::static_pointer_cast<RecordingSink>(request->sink);
    ASSERT_TRUE(toy.core().Submit(std::move(request)).ok());
    for (int i = 0; i < 10; ++i) toy.engine().RunOnce();
    ASSERT_FALSE(sink->over());
    if (deleted) {
      Delete(toy, id);
    } else {
      auto next = Request("next", {7}, 90, Sink());
      next->session_id = id;
      next->ignore_eos = true;
      EXPECT_EQ(toy.Run(std::move(next)).samples[0].tokens, toy.Expected(After(Story(), {7}), 90));
    }
    toy.Settle();
    EXPECT_EQ(sink->record().samples[0].tokens, toy.Expected(After(Story(), {9, 8}), 90)) << deleted;
    if (!deleted) Delete(toy, id);
    ExpectAllFree(toy);
  }
}

TEST_P(BranchTest, ComputesAgainWhatTheSessionHasLost) {
  ToyCore toy(Config());
  const std::string id = Tell(toy);
  toy.clock().Advance(absl::Minutes(11));
  toy.Settle();
  ASSERT_EQ(toy.GetSession(id)->cached_tokens, 0);
  const TurnRecord read = toy.Run(Read(id, 3));
  EXPECT_EQ(read.samples[0].tokens, toy.Expected(After(Story(), {9, 8}), 3));
  EXPECT_EQ(read.finished->recomputed_tokens, kLength);
  EXPECT_EQ(toy.GetSession(id)->cached_tokens, 0);
  ExpectAllFree(toy);
}

TEST_P(BranchTest, TakesTheSessionsPagesWhenThereAreNoOthers) {
  ToyConfig config = Config();
  config.state_pages = 2;  // the session's
  config.open_pages = 1;
  ToyCore toy(config);
  const std::string id = Tell(toy);
  const TurnRecord read = toy.Run(Read(id, 3));
  ASSERT_TRUE(read.finished) << "it waits for ever";
  EXPECT_EQ(read.samples[0].tokens, toy.Expected(After(Story(), {9, 8}), 3));
  EXPECT_EQ(toy.GetSession(id)->position, kLength) << "its tokens are still there";
  ExpectAllFree(toy);
}

// Nothing happens between the end of the one and the start of the other but that pages are given up: the
// engine must not take that for nothing to do.
TEST_P(BranchTest, TakesThemAlsoWhenItHadToWait) {
  ToyConfig config = Config();
  config.state_pages = config.open_pages = 4;
  config.max_batch_sessions = 1;
  ToyCore toy(config);
  const std::string id = Tell(toy);
  auto other = Request("other", {5, 6}, 30, Sink());
  other->ignore_eos = true;
  ASSERT_TRUE(toy.core().Submit(std::move(other)).ok());
  toy.engine().RunOnce();
  auto read = Request("read", std::vector<int32_t>(4 * kPageTokens - kLength, 9), 0, Sink());  // all pages
  read->session_id = id;
  read->append = false;
  const TurnRecord record = toy.Run(std::move(read));
  ASSERT_TRUE(record.finished) << "it waits for ever";
  EXPECT_EQ(record.finished->position, 4 * kPageTokens);
}

TEST_P(BranchTest, ReadsTheExpectedLengthOnly) {
  ToyCore toy(Config());
  const std::string id = Tell(toy);
  for (const int32_t expected : {kLength, kLength - 1}) {
    auto request = Read(id, 1);
    request->expected_position = expected;
    const TurnRecord read = toy.Run(std::move(request));
    EXPECT_EQ(read.finished.has_value(), expected == kLength);
    EXPECT_EQ(read.error ? GetErrorDetail(*read.error).reason : "",
              expected == kLength ? "" : "POSITION_MISMATCH");
  }
  Delete(toy, id);
  ExpectAllFree(toy);
}

TEST_P(BranchTest, ABusySessionIsNotRead) {
  ToyCore toy(Config());
  const std::string id = Tell(toy);
  auto writer = Request("write", {5}, 50, Sink());
  writer->session_id = id;
  writer->ignore_eos = true;
  ASSERT_TRUE(toy.core().Submit(std::move(writer)).ok());
  toy.engine().RunOnce();
  const TurnRecord read = toy.Run(Read(id, 3));
  ASSERT_TRUE(read.error);
  EXPECT_EQ(GetErrorDetail(*read.error).reason, "SESSION_BUSY");
}

}  // namespace
}  // namespace sessa::toy
