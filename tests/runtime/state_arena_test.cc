#include "runtime/state_arena.h"

#include <algorithm>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sessa {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr PageKind kKinds[] = {PageKind::kState, PageKind::kOpen};

TEST(StateArena, GivesEveryPageOnceAndTakesItBack) {
  StateArena arena(3, 2);
  std::vector<PageId> pages;
  for (int i = 0; i < 3; ++i) pages.push_back(arena.Allocate(PageKind::kState).value());
  EXPECT_THAT(pages, testing::UnorderedElementsAre(0, 1, 2));
  EXPECT_FALSE(arena.Allocate(PageKind::kState).has_value());
  EXPECT_TRUE(arena.Allocate(PageKind::kOpen).has_value());
  arena.Ref(PageKind::kState, pages[1]);
  arena.Unref(PageKind::kState, pages[1]);
  EXPECT_EQ(arena.free(PageKind::kState), 0);
  arena.Unref(PageKind::kState, pages[1]);
  EXPECT_EQ(arena.free(PageKind::kState), 1);
  EXPECT_EQ(arena.Allocate(PageKind::kState), pages[1]);
}

TEST(StateArena, CountsOrphansAndWrongReferences) {
  StateArena arena(4, 0);
  const PageId a = *arena.Allocate(PageKind::kState), b = *arena.Allocate(PageKind::kState);
  EXPECT_EQ(arena.CountOrphans(PageKind::kState, {a, b}), 0);
  EXPECT_EQ(arena.CountOrphans(PageKind::kState, {a}), 1);
  EXPECT_EQ(arena.CountOrphans(PageKind::kState, {}), 2);
  EXPECT_EQ(arena.CountOrphans(PageKind::kState, {a, a, b}), 1);  // held twice, counted once
  arena.Ref(PageKind::kState, a);
  EXPECT_EQ(arena.CountOrphans(PageKind::kState, {a, a, b}), 0);
}

TEST(PageTable, TakesPagesAsTokensComeAndGivesThemBack) {
  StateArena arena(4, 1);
  PageTable table;
  std::vector<PageCopy> copies;
  EXPECT_EQ(table.Need(65, arena).state, 2);
  EXPECT_EQ(table.Need(65, arena).open, 1);
  ASSERT_TRUE(table.EnsureCapacity(65, &arena, &copies));
  EXPECT_EQ(table.tokens(), 0);
  EXPECT_EQ(table.Need(128, arena).state, 0);
  table.Commit(65);
  EXPECT_EQ(table.Need(128, arena).state, 0);
  EXPECT_EQ(table.Need(129, arena).state, 1);
  EXPECT_FALSE(table.EnsureCapacity(64 * 5, &arena, &copies));  // and nothing changed
  EXPECT_EQ(arena.used(PageKind::kState), 2);
  EXPECT_THAT(copies, IsEmpty());
  table.Release(&arena);
  EXPECT_EQ(table.tokens(), 0);
  EXPECT_EQ(arena.used(PageKind::kState), 0);
  EXPECT_EQ(arena.used(PageKind::kOpen), 0);
}

TEST(PageTable, CapacityIsAllOrNothingAcrossBothKinds) {
  StateArena arena(4, 1);
  PageTable first, second;
  std::vector<PageCopy> copies;
  ASSERT_TRUE(first.EnsureCapacity(1, &arena, &copies));
  EXPECT_FALSE(second.EnsureCapacity(1, &arena, &copies));  // pages, but no open page
  EXPECT_EQ(arena.used(PageKind::kState), 1);
  EXPECT_THAT(second.pages(), IsEmpty());
  first.Release(&arena);
}

// A table of `tokens` tokens.
PageTable MakeTable(int64_t tokens, StateArena* arena) {
  PageTable table;
  std::vector<PageCopy> copies;
  EXPECT_TRUE(table.EnsureCapacity(tokens, arena, &copies));
  table.Commit(tokens);
  return table;
}

TEST(PageTable, FloatStateIsCutAnywhere) {
  StateArena arena(4, 0);
  PageTable table = MakeTable(200, &arena);
  EXPECT_EQ(table.Truncate(300, &arena), 200);
  EXPECT_EQ(table.Truncate(130, &arena), 130);
  EXPECT_EQ(table.pages().size(), 3u);
  EXPECT_EQ(table.Truncate(63, &arena), 63);
  EXPECT_EQ(table.pages().size(), 1u);
  EXPECT_EQ(table.Truncate(0, &arena), 0);
  EXPECT_EQ(arena.used(PageKind::kState), 0);
  table.Release(&arena);
}

TEST(PageTable, CompactStateLosesTheRestOfAClosedBlock) {
  StateArena arena(4, 1);
  PageTable table = MakeTable(200, &arena);  // the open page holds [192, 200)
  EXPECT_EQ(table.Truncate(195, &arena), 195);
  EXPECT_EQ(table.Truncate(130, &arena), 128);
  EXPECT_EQ(table.open_page(), -1);
  EXPECT_EQ(table.pages().size(), 2u);
  table.Release(&arena);

  PageTable full = MakeTable(128, &arena);  // the open page holds all of [64, 128)
  EXPECT_EQ(full.Truncate(100, &arena), 100);
  EXPECT_GE(full.open_page(), 0);
  EXPECT_EQ(full.DropOpenPage(&arena), 64);
  EXPECT_EQ(arena.used(PageKind::kOpen), 0);
  full.Release(&arena);
}

TEST(PageTable, AForkSharesPagesAndCopiesTheOneItWrites) {
  StateArena arena(8, 3);
  PageTable trunk = MakeTable(100, &arena);
  PageTable fork = trunk.Fork(100, &arena);
  EXPECT_EQ(fork.tokens(), 100);
  EXPECT_EQ(arena.used(PageKind::kState), 2);
  EXPECT_EQ(arena.used(PageKind::kOpen), 1);

  const PageId shared = trunk.pages()[1], shared_open = trunk.open_page();
  EXPECT_EQ(fork.Need(101, arena).state, 1);
  EXPECT_EQ(fork.Need(101, arena).open, 1);
  std::vector<PageCopy> copies;
  ASSERT_TRUE(fork.EnsureCapacity(101, &arena, &copies));
  ASSERT_EQ(copies.size(), 2u);
  EXPECT_EQ(copies[0].from, shared);
  EXPECT_EQ(copies[0].to, fork.pages()[1]);
  EXPECT_EQ(copies[1].kind, PageKind::kOpen);
  EXPECT_EQ(copies[1].from, shared_open);
  EXPECT_EQ(copies[1].to, fork.open_page());
  EXPECT_EQ(fork.pages()[0], trunk.pages()[0]);

  copies.clear();
  ASSERT_TRUE(trunk.EnsureCapacity(101, &arena, &copies));  // the trunk is alone on its pages again
  EXPECT_THAT(copies, IsEmpty());
  trunk.Release(&arena);
  fork.Release(&arena);
  EXPECT_EQ(arena.used(PageKind::kState), 0);
  EXPECT_EQ(arena.used(PageKind::kOpen), 0);
}

TEST(PageTable, AForkAtAPagesEdgeNeedsNoCopies) {
  StateArena arena(8, 3);
  PageTable trunk = MakeTable(128, &arena);
  PageTable fork = trunk.Fork(64, &arena);
  EXPECT_EQ(fork.tokens(), 64);
  EXPECT_EQ(fork.open_page(), -1);
  std::vector<PageCopy> copies;
  ASSERT_TRUE(fork.EnsureCapacity(65, &arena, &copies));
  EXPECT_THAT(copies, IsEmpty());
  EXPECT_NE(fork.pages()[1], trunk.pages()[1]);
  trunk.Release(&arena);
  fork.Release(&arena);
}

// Random forks, appends, cuts and releases against a model that holds every token's history in the open: the
// value of a token is where its branch came from, and pages hold the values that were written to them.
class PageTableProperty {
 public:
  PageTableProperty(uint32_t seed, bool compact)
      : random_(seed), compact_(compact), arena_(24, compact ? 6 : 0) {}

  void Run(int32_t operations) {
    for (int32_t i = 0; i < operations; ++i) {
      if (sessions_.empty() || Below(12) == 0) sessions_.emplace_back();
      const size_t session = Below(static_cast<int32_t>(sessions_.size()));
      switch (Below(8)) {
        case 0:
          Cut(&sessions_[session], true);
          break;
        case 1:
          Fork(session);
          break;
        case 2:
          if (Below(4) == 0) Drop(session);
          break;
        case 3:
          Cut(&sessions_[session], false);
          break;
        default:
          Append(&sessions_[session], 1 + Below(90));
      }
      Check();
      if (testing::Test::HasFailure()) break;
    }
    while (!sessions_.empty()) Drop(0);
    for (PageKind kind : kKinds) EXPECT_EQ(arena_.used(kind), 0);
  }

 private:
  struct Session {
    PageTable table;
    std::vector<uint32_t> tokens;
  };
  using Rows = std::map<int32_t, uint32_t>;  // row of a page -> value

  int32_t Below(int32_t limit) { return static_cast<int32_t>(random_() % limit); }

  void Append(Session* session, int32_t count) {
    const int64_t end = session->table.tokens() + count;
    const PageNeed need = session->table.Need(end, arena_);
    const int32_t free_before = arena_.free(PageKind::kState), open_before = arena_.free(PageKind::kOpen);
    std::vector<PageCopy> copies;
    if (!session->table.EnsureCapacity(end, &arena_, &copies)) {
      EXPECT_TRUE(need.state > free_before || need.open > open_before);
      EXPECT_EQ(arena_.free(PageKind::kState), free_before);
      EXPECT_EQ(arena_.free(PageKind::kOpen), open_before);
      return;
    }
    EXPECT_EQ(arena_.free(PageKind::kState), free_before - need.state);
    EXPECT_EQ(arena_.free(PageKind::kOpen), open_before - need.open);
    for (const PageCopy& copy : copies)
      memory_[static_cast<int>(copy.kind)][copy.to] = MemoryOf(copy.kind, copy.from);
    for (int64_t position = session->table.tokens(); position < end; ++position) {
      const uint32_t value = static_cast<uint32_t>(random_());
      const int32_t row = position % kPageTokens;
      const PageId page = session->table.pages()[position / kPageTokens];
      EXPECT_EQ(arena_.refs(PageKind::kState, page), 1) << "writes a shared page";
      MemoryOf(PageKind::kState, page)[row] = value;
      if (compact_) {
        EXPECT_EQ(arena_.refs(PageKind::kOpen, session->table.open_page()), 1);
        Rows& open = MemoryOf(PageKind::kOpen, session->table.open_page());
        if (row == 0) open.clear();
        open[row] = value;
      }
      session->tokens.push_back(value);
    }
    session->table.Commit(end);
  }

  void Cut(Session* session, bool anywhere) {
    const int64_t before = session->table.tokens();
    const int64_t wanted = Below(static_cast<int32_t>(before) + 1);
    const int64_t kept =
        anywhere ? session->table.Truncate(wanted, &arena_) : session->table.DropOpenPage(&arena_);
    EXPECT_LE(kept, anywhere ? wanted : before);
    EXPECT_GT(kept + kPageTokens, anywhere ? wanted : before);
    session->tokens.resize(kept);
  }

  void Fork(size_t from) {
    Session fork;
    fork.table =
        sessions_[from].table.Fork(Below(static_cast<int32_t>(sessions_[from].table.tokens()) + 1), &arena_);
    fork.tokens.assign(sessions_[from].tokens.begin(), sessions_[from].tokens.begin() + fork.table.tokens());
    sessions_.push_back(std::move(fork));
  }

  void Drop(size_t session) {
    sessions_[session].table.Release(&arena_);
    std::swap(sessions_[session], sessions_.back());
    sessions_.pop_back();
  }

  void Check() {
    std::vector<PageId> owned[2];
    for (const Session& session : sessions_) {
      ASSERT_EQ(session.table.tokens(), session.tokens.size());
      owned[0].insert(owned[0].end(), session.table.pages().begin(), session.table.pages().end());
      if (session.table.open_page() >= 0) owned[1].push_back(session.table.open_page());
      for (size_t position = 0; position < session.tokens.size(); ++position) {
        const PageId page = session.table.pages()[position / kPageTokens];
        ASSERT_EQ(MemoryOf(PageKind::kState, page).at(position % kPageTokens), session.tokens[position]);
        const bool open_block = position / kPageTokens == session.tokens.size() / kPageTokens;
        if (!compact_ || !open_block)
          continue;  // the block that the next token belongs to is there in float32
        ASSERT_EQ(MemoryOf(PageKind::kOpen, session.table.open_page()).at(position % kPageTokens),
                  session.tokens[position]);
      }
    }
    for (PageKind kind : kKinds) {
      EXPECT_EQ(arena_.CountOrphans(kind, owned[static_cast<int>(kind)]), 0);
      EXPECT_EQ(arena_.free(kind) + arena_.used(kind), arena_.total(kind));
    }
  }

  Rows& MemoryOf(PageKind kind, PageId page) { return memory_[static_cast<int>(kind)][page]; }

  std::mt19937 random_;
  const bool compact_;
  StateArena arena_;
  std::vector<Session> sessions_;
  std::map<PageId, Rows> memory_[2];
};

TEST(PageTable, NoTableEverSeesAnothersTokens) {
  for (bool compact : {false, true}) {
    for (uint32_t seed = 0; seed < 40 && !testing::Test::HasFailure(); ++seed) {
      SCOPED_TRACE(testing::Message() << "seed " << seed << (compact ? " compact" : " f32"));
      PageTableProperty(seed, compact).Run(300);
    }
  }
}

}  // namespace
}  // namespace sessa
