#include "runtime/state_arena.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace sessa {
namespace {

int64_t PagesFor(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

StateArena::StateArena(int32_t state_pages, int32_t open_pages) {
  const int32_t totals[] = {state_pages, open_pages};
  for (int kind = 0; kind < 2; ++kind) {
    pools_[kind].refs.assign(totals[kind], 0);
    pools_[kind].free.resize(totals[kind]);
    for (int32_t i = 0; i < totals[kind]; ++i) pools_[kind].free[i] = totals[kind] - 1 - i;  // 0 goes first
  }
}

std::optional<PageId> StateArena::Allocate(PageKind kind) {
  Pool& p = pool(kind);
  if (p.free.empty()) return std::nullopt;
  const PageId page = p.free.back();
  p.free.pop_back();
  assert(p.refs[page] == 0);
  p.refs[page] = 1;
  return page;
}

void StateArena::Ref(PageKind kind, PageId page) {
  assert(refs(kind, page) > 0);
  ++pool(kind).refs[page];
}

void StateArena::Unref(PageKind kind, PageId page) {
  assert(refs(kind, page) > 0);
  Pool& p = pool(kind);
  if (--p.refs[page] == 0) p.free.push_back(page);
}

int32_t StateArena::refs(PageKind kind, PageId page) const {
  assert(page >= 0 && page < total(kind));
  return pool(kind).refs[page];
}

int32_t StateArena::total(PageKind kind) const { return static_cast<int32_t>(pool(kind).refs.size()); }
int32_t StateArena::free(PageKind kind) const { return static_cast<int32_t>(pool(kind).free.size()); }

int32_t StateArena::CountOrphans(PageKind kind, absl::Span<const PageId> owned) const {
  std::vector<int32_t> owners(total(kind), 0);
  for (PageId page : owned) ++owners[page];
  int32_t orphans = 0;
  for (PageId page = 0; page < total(kind); ++page) orphans += owners[page] != pool(kind).refs[page];
  return orphans;
}

PageTable::PageTable(PageTable&& other) noexcept { *this = std::move(other); }

PageTable& PageTable::operator=(PageTable&& other) noexcept {
  assert(pages_.empty() && open_page_ < 0);
  tokens_ = std::exchange(other.tokens_, 0);
  pages_ = std::exchange(other.pages_, {});
  open_page_ = std::exchange(other.open_page_, -1);
  return *this;
}

PageTable::~PageTable() { assert(pages_.empty() && open_page_ < 0); }

PageNeed PageTable::Need(int64_t end, const StateArena& arena) const {
  PageNeed need;
  if (end <= tokens_) return need;
  need.state =
      static_cast<int32_t>(std::max<int64_t>(0, PagesFor(end) - static_cast<int64_t>(pages_.size())));
  const bool mid_page = tokens_ % kPageTokens != 0;
  if (mid_page && arena.refs(PageKind::kState, pages_[tokens_ / kPageTokens]) > 1) ++need.state;
  if (arena.has_open_pages()) need.open = open_page_ < 0 || arena.refs(PageKind::kOpen, open_page_) > 1;
  return need;
}

bool PageTable::EnsureCapacity(int64_t end, StateArena* arena, std::vector<PageCopy>* copies) {
  const PageNeed need = Need(end, *arena);
  if (need.state > arena->free(PageKind::kState) || need.open > arena->free(PageKind::kOpen)) return false;
  if (end <= tokens_) return true;

  const bool mid_page = tokens_ % kPageTokens != 0;  // at a page's edge there is nothing to copy
  const auto replace_shared = [&](PageKind kind, PageId* page) {
    if (arena->refs(kind, *page) == 1) return;
    const PageId own = *arena->Allocate(kind);
    if (mid_page) copies->push_back({kind, *page, own});
    arena->Unref(kind, *page);
    *page = own;
  };
  if (mid_page) replace_shared(PageKind::kState, &pages_[tokens_ / kPageTokens]);
  while (static_cast<int64_t>(pages_.size()) < PagesFor(end))
    pages_.push_back(*arena->Allocate(PageKind::kState));
  if (arena->has_open_pages()) {
    if (open_page_ < 0) {
      assert(!mid_page);  // the float32 s of an unfinished block cannot be made up
      open_page_ = *arena->Allocate(PageKind::kOpen);
    } else {
      replace_shared(PageKind::kOpen, &open_page_);
    }
  }
  return true;
}

void PageTable::Commit(int64_t end) {
  assert(end >= tokens_ && PagesFor(end) <= static_cast<int64_t>(pages_.size()));
  tokens_ = end;
}

int64_t PageTable::ContinuableTokens(int64_t tokens, bool compact) const {
  const int64_t n = std::min(tokens, tokens_);
  if (!compact || n % kPageTokens == 0) return n;
  const bool in_open_block = open_page_ >= 0 && n / kPageTokens == (tokens_ - 1) / kPageTokens;
  return in_open_block ? n : n - n % kPageTokens;
}

int64_t PageTable::Truncate(int64_t tokens, StateArena* arena) {
  assert(tokens >= 0);
  tokens_ = ContinuableTokens(tokens, arena->has_open_pages());
  while (static_cast<int64_t>(pages_.size()) > PagesFor(tokens_)) {
    arena->Unref(PageKind::kState, pages_.back());
    pages_.pop_back();
  }
  // At a page's edge the open page holds nothing that is needed.
  if (tokens_ % kPageTokens == 0 && open_page_ >= 0) {
    arena->Unref(PageKind::kOpen, open_page_);
    open_page_ = -1;
  }
  return tokens_;
}

int64_t PageTable::DropOpenPage(StateArena* arena) {
  if (!arena->has_open_pages()) return tokens_;
  return Truncate(tokens_ - tokens_ % kPageTokens, arena);
}

PageTable PageTable::Fork(int64_t tokens, StateArena* arena) const {
  PageTable fork;
  fork.tokens_ = ContinuableTokens(tokens, arena->has_open_pages());
  fork.pages_.assign(pages_.begin(), pages_.begin() + PagesFor(fork.tokens_));
  for (PageId page : fork.pages_) arena->Ref(PageKind::kState, page);
  if (fork.tokens_ % kPageTokens != 0 && open_page_ >= 0) {
    fork.open_page_ = open_page_;
    arena->Ref(PageKind::kOpen, open_page_);
  }
  return fork;
}

void PageTable::Release(StateArena* arena) {
  for (PageId page : pages_) arena->Unref(PageKind::kState, page);
  pages_.clear();
  if (open_page_ >= 0) arena->Unref(PageKind::kOpen, open_page_);
  open_page_ = -1;
  tokens_ = 0;
}

}  // namespace sessa
