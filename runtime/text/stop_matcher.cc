#include "runtime/text/stop_matcher.h"

#include <algorithm>
#include <cassert>

namespace sessa {

StopMatcher::StopMatcher(const std::vector<std::string>& stops) {
  for (const std::string& stop : stops) {
    assert(!stop.empty());
    Automaton automaton{stop, std::vector<size_t>(stop.size() + 1, 0)};
    size_t border = 0;
    for (size_t n = 2; n <= stop.size(); ++n) {
      while (border > 0 && stop[n - 1] != stop[border]) border = automaton.border[border];
      if (stop[n - 1] == stop[border]) ++border;
      automaton.border[n] = border;
    }
    automata_.push_back(std::move(automaton));
  }
}

bool StopMatcher::Automaton::Read(char c) {
  while (matched > 0 && c != stop[matched]) matched = border[matched];
  if (c == stop[matched]) ++matched;
  if (matched < stop.size()) return false;
  matched = border[matched];
  return true;
}

std::optional<StopMatcher::Match> StopMatcher::Read(absl::string_view text, bool match) {
  for (size_t i = 0; i < text.size(); ++i) {
    std::optional<Match> best;
    for (size_t s = 0; s < automata_.size(); ++s) {
      if (!automata_[s].Read(text[i]) || !match) continue;
      if (!best || automata_[s].stop.size() > automata_[best->stop].stop.size()) best = Match{s, i + 1};
    }
    if (best) return best;
  }
  return std::nullopt;
}

size_t StopMatcher::MayBegin() const {
  size_t longest = 0;
  for (const Automaton& automaton : automata_) longest = std::max(longest, automaton.matched);
  return longest;
}

}  // namespace sessa
