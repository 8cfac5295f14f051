// Finds stop strings in text that arrives piece by piece.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace sessa {

// One Knuth-Morris-Pratt automaton a stop string, so a byte costs O(stop strings) whatever the text. The
// match that ends first wins; of those that end at the same byte, the longest. One thread at a time.
class StopMatcher {
 public:
  // `stops`: not empty strings.
  explicit StopMatcher(const std::vector<std::string>& stops);

  struct Match {
    size_t stop;  // index of the stop string
    size_t end;   // bytes of `text` up to and including its last one
  };
  // Reads on. With `match` false stop strings that end in this text do not count, but one that ends later may
  // begin in it. After a match there is nothing more to be read.
  std::optional<Match> Read(absl::string_view text, bool match);

  // How many of the last bytes read may be the beginning of a stop string.
  size_t MayBegin() const;

 private:
  struct Automaton {
    std::string stop;
    std::vector<size_t> border;  // [n]: longest proper prefix of stop[0, n) that is its suffix, too
    size_t matched = 0;          // longest prefix of stop that the text ends with, never all of it
    bool Read(char c);           // true: the stop string is complete
  };
  std::vector<Automaton> automata_;
};

}  // namespace sessa
