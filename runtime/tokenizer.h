// Text to token ids and back. A model without a tokenizer has none: it takes and gives ids only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sessa {

// Thread-safe after construction.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  // A vocabulary may be smaller than the model's (which is then padded). One that is larger gives ids that
  // the model does not have: refuse it with CheckTokenizerFits.
  virtual int32_t vocab_size() const = 0;
  // Ids of valid UTF-8 text, by itself: no BOS, no EOS. INVALID_ARGUMENT for text that is not UTF-8.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const = 0;
  // The bytes that a token appends to a text (a byte token: that one byte, maybe a part of a character).
  // Control tokens (BOS, EOS, unknown) append nothing, nor do ids that the tokenizer does not have. Valid as
  // long as the tokenizer.
  virtual absl::string_view TokenBytes(int32_t id) const = 0;
  // The token's name as the tokenizer file spells it ("<s>", "<0x0A>"), for showing special tokens.
  virtual absl::string_view TokenName(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  // The most bytes of a text that one of its tokens stands for; 0 when there is no such number, since the
  // tokenizer rewrites or drops a part of some texts.
  virtual int64_t MostBytesPerToken() const { return 0; }
};

// Opens a SentencePiece model through the plugin libsessa_tokenizer.so, which lies beside the program (or in
// plugin_dir). A damaged file is refused or gives a tokenizer that encodes any text without harm. Errors name
// the file.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceTokenizer(const std::string& model_file,
                                                                      const std::string& plugin_dir = "");

// The same from the bytes of a model file; `name` is for messages.
absl::StatusOr<std::unique_ptr<Tokenizer>> OpenSentencePieceTokenizer(absl::string_view name,
                                                                      absl::string_view model,
                                                                      const std::string& plugin_dir = "");

// INVALID_ARGUMENT naming the file when the tokenizer has more tokens than the model (`model_vocab`).
absl::Status CheckTokenizerFits(const Tokenizer& tokenizer, int32_t model_vocab,
                                const std::string& model_file);

}  // namespace sessa
