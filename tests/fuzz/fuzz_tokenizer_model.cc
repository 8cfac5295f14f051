// Any bytes as a tokenizer's model file: refused, or a tokenizer whose ids are its own for any text. A fault
// inside SentencePiece, which is not instrumented, shows when it ends the process.
#include <memory>

#include "runtime/tokenizer.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view model(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = sessa::OpenSentencePieceTokenizer("fuzz", model);
  if (!tokenizer.ok()) return 0;
  for (int32_t id = 0; id < (*tokenizer)->vocab_size(); ++id) (*tokenizer)->TokenBytes(id);
  for (const absl::string_view text : {"", "a", "The CAB  is red.\n", "AAAAAAAA", "aaaaaaaa",
                                       "\xEF\xAC\x81 \xE2\x96\x81", "\xF0\x9F\x98\x80"}) {
    const auto ids = (*tokenizer)->Encode(text);
    if (!ids.ok()) continue;
    for (const int32_t id : *ids) FUZZ_CHECK(id >= 0 && id < (*tokenizer)->vocab_size());
    const int64_t most = (*tokenizer)->MostBytesPerToken();
    FUZZ_CHECK(most == 0 || static_cast<int64_t>(text.size()) <= most * static_cast<int64_t>(ids->size()));
  }
  return 0;
}
