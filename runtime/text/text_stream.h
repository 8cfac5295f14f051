// The text of a turn's tokens, as far as it can be told after each of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "runtime/text/stop_matcher.h"
#include "runtime/text/utf8.h"
#include "runtime/tokenizer.h"

namespace sessa {

struct TextOptions {
  std::vector<std::string> stop;    // stop strings: valid UTF-8, none empty
  bool include_stop = false;        // the text ends after the stop string instead of before it
  bool skip_special_tokens = true;  // false: special tokens appear by their names
  int32_t min_tokens = 0;           // a stop string counts when its last byte comes after that many tokens
};

struct TextPiece {
  std::string text;                         // to be emitted; valid UTF-8
  std::optional<std::string> stop_matched;  // the stop string that this token completed: the text has ended
};

// Turns tokens into text that is final: an unfinished character, and text that may turn out to begin a stop
// string, are held back. What was emitted after p tokens is a pure function of these p tokens. The match that
// ends first wins; of those that end together, the longest. One thread at a time.
class TextStream {
 public:
  // The tokenizer outlives the stream; null for a model without one: there is no text then.
  TextStream(const Tokenizer* tokenizer, const TextOptions& options);

  // The next token. Not after a stop string was matched or after Finish.
  TextPiece Push(int32_t token);
  // The turn has ended: what was held back. An unfinished character becomes U+FFFD; empty after a matched
  // stop.
  std::string Finish();

 private:
  const Tokenizer* const tokenizer_;
  const TextOptions options_;
  StopMatcher matcher_;
  Utf8Decoder decoder_;
  std::string held_;       // text decoded but not emitted
  int32_t tokens_ = 0;     // pushed
  bool finished_ = false;  // by a stop string or by Finish
};

// The text of token ids as a whole, like that of a stream without stop strings.
std::string DecodeTokens(const Tokenizer& tokenizer, absl::Span<const int32_t> tokens,
                         bool skip_special_tokens);

}  // namespace sessa
