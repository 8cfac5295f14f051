// Accounting of state pages. The bytes belong to the backend (kernels/ops.h); here are only page ids,
// reference counts and the page table of a session.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "kernels/ops.h"

namespace sessa {

// kState: 64 tokens of k, v, kb, s of all layers. kOpen: float32 s of the block that is still being filled;
// exists in compact state only.
enum class PageKind { kState, kOpen };

// Reference-counted page ids of both kinds. free + used == total for each kind, always.
// Engine-thread only.
class StateArena {
 public:
  // As Ops::AllocateState was called. open_pages == 0: the state is float32 and has no open pages.
  StateArena(int32_t state_pages, int32_t open_pages);
  StateArena(const StateArena&) = delete;
  StateArena& operator=(const StateArena&) = delete;

  // A page with one reference; nullopt when none is free. The page freed last is given first: its memory is
  // warm.
  std::optional<PageId> Allocate(PageKind kind);
  void Ref(PageKind kind, PageId page);
  void Unref(PageKind kind, PageId page);  // frees the page with its last reference
  int32_t refs(PageKind kind, PageId page) const;

  bool has_open_pages() const { return total(PageKind::kOpen) > 0; }
  int32_t total(PageKind kind) const;
  int32_t free(PageKind kind) const;
  int32_t used(PageKind kind) const { return total(kind) - free(kind); }

  // Pages in use that `owned` (every page of every table, once a table) does not account for, plus pages
  // whose reference count differs from the number of tables that hold them. 0 in a sound engine.
  int32_t CountOrphans(PageKind kind, absl::Span<const PageId> owned) const;

 private:
  struct Pool {
    std::vector<int32_t> refs;  // (total)
    std::vector<PageId> free;   // stack
  };
  Pool& pool(PageKind kind) { return pools_[static_cast<int>(kind)]; }
  const Pool& pool(PageKind kind) const { return pools_[static_cast<int>(kind)]; }
  Pool pools_[2];
};

// A copy that the backend must make before the next step (Ops::CopyPage, Ops::CopyOpenPage).
struct PageCopy {
  PageKind kind;
  PageId from, to;
};

// Pages that a table would take from the arena.
struct PageNeed {
  int32_t state = 0, open = 0;
};

// The pages of one session and how far its state is valid. Must be released before it dies: pages go back by
// name, never by accident. Engine-thread only.
//
// Life of a step: EnsureCapacity(end, ...), make the copies, launch the step that writes [tokens(), end),
// then Commit(end). A full page is immutable, so tables share it by reference; a page that is to be written
// while another table holds it too is copied first.
class PageTable {
 public:
  PageTable() = default;
  PageTable(PageTable&& other) noexcept;
  PageTable& operator=(PageTable&& other) noexcept;  // REQUIRES: *this is released
  ~PageTable();                                      // REQUIRES: released

  int64_t tokens() const { return tokens_; }  // state of positions [0, tokens()) is valid
  absl::Span<const PageId> pages() const { return pages_; }
  PageId open_page() const { return open_page_; }  // -1: none

  // What EnsureCapacity(end, arena, ...) would allocate.
  PageNeed Need(int64_t end, const StateArena& arena) const;
  // Makes [tokens(), end) writable. Appends the copies to make to `copies`. False, and nothing changed, when
  // the arena cannot give the pages. The pages copied from stay alive through their other owner at least
  // until this engine turn ends.
  bool EnsureCapacity(int64_t end, StateArena* arena, std::vector<PageCopy>* copies);
  // The step that writes up to `end` was launched. REQUIRES: capacity for it.
  void Commit(int64_t end);

  // Cuts back to at most `tokens`. Returns tokens() afterwards: in compact state a cut into a closed block
  // also loses the rest of that block (its float32 s is gone), at most 63 tokens to compute again.
  int64_t Truncate(int64_t tokens, StateArena* arena);
  // Gives the open page back (an idle session); the unfinished block must be computed again. Returns
  // tokens().
  int64_t DropOpenPage(StateArena* arena);
  // A table that shares this one's first `tokens` tokens, or fewer as in Truncate.
  PageTable Fork(int64_t tokens, StateArena* arena) const;
  // Gives everything back; tokens() == 0.
  void Release(StateArena* arena);

 private:
  // The largest n <= tokens up to which this table's state could be continued.
  int64_t ContinuableTokens(int64_t tokens, bool compact) const;

  int64_t tokens_ = 0;
  std::vector<PageId>
      pages_;              // page i: positions [64 i, 64 i + 64); those past tokens() are this table's alone
  PageId open_page_ = -1;  // float32 s of the block of position tokens() - 1
};

}  // namespace sessa
