// The rules by which a SentencePiece model rewrites text before it cuts it ("precompiled_charsmap").
// SentencePiece follows them without looking where they lead, so a damaged one lets a client's text read
// anywhere in memory: it is checked here before SentencePiece gets it.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace sessa {

// Whether every text can be looked up in `charsmap` within its bounds. OK for an empty one (no rules), else
// INVALID_ARGUMENT with the reason. Any thread.
//
// Format: the size in bytes of a trie (4 bytes, little-endian), the trie, NUL-terminated replacements. The
// trie is a Darts-clone double array (Yata et al.) of 4-byte units. From a unit at i, the children lie around
// base = i ^ offset: the one for byte c at base ^ c, if its label is c; a rule that ends here has the place
// of its replacement, within the replacements, in the unit at `base`.
absl::Status CheckCharsmap(absl::string_view charsmap);

}  // namespace sessa
