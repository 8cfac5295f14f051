// What a SentencePiece model file says that SentencePiece does not check, or does not tell.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sessa {

struct TokenizerFacts {
  // Every byte of a text is a byte of some token: nothing is rewritten, no spaces are dropped, and what has
  // no piece is cut into bytes.
  bool keeps_every_byte = false;
};

// Checks what SentencePiece would follow out of bounds: rewriting rules, and symbols nested too deep.
// `model`: the bytes of a model file (a serialised sentencepiece.ModelProto). INVALID_ARGUMENT with the
// reason. That the rest is a model is checked by SentencePiece. Any thread.
absl::StatusOr<TokenizerFacts> CheckTokenizerModel(absl::string_view model);

}  // namespace sessa
