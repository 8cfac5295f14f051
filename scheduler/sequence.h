// Tokens with the state that was computed for them.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/state_arena.h"

namespace sessa {

// The tokens are the truth; the pages are a cache of the state of their first computed() ones.
// Engine-thread only. DropState before it dies.
struct Sequence {
  std::vector<int32_t> tokens;
  PageTable table;
  // Positions [computed(), lost_until) had state that was given up: computing them is recomputation.
  int64_t lost_until = 0;

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t computed() const { return table.tokens(); }
  int64_t to_recompute() const { return lost_until > computed() ? lost_until - computed() : 0; }

  // Gives all pages back. The last token counts as lost with the state although it may have been waiting for
  // its first step: after that, the whole sequence is computed again.
  void DropState(StateArena* arena) {
    if (computed() > 0) {
      const int64_t lost = size() - computed() <= 1 ? size() : computed();
      lost_until = lost > lost_until ? lost : lost_until;
    }
    table.Release(arena);
  }
  // Keeps the state of at most the first `count` tokens.
  void TruncateState(int64_t count, StateArena* arena) {
    const int64_t had = computed() < count ? computed() : count;
    if (table.Truncate(count, arena) < had && lost_until < had) lost_until = had;
  }
  void DropOpenPage(StateArena* arena) {
    const int64_t had = computed();
    if (table.DropOpenPage(arena) < had && lost_until < had) lost_until = had;
  }
  // Keeps the first `count` tokens, and the state of at most those.
  void Truncate(int64_t count, StateArena* arena) {
    tokens.resize(count);
    TruncateState(count, arena);
    if (lost_until > count) lost_until = count;
  }
};

}  // namespace sessa
