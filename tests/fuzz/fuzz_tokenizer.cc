// Any text into the embedded model's tokenizer: refused as no UTF-8, or ids that have a text. Run from the
// source root.
#include <memory>

#include "runtime/text/text_stream.h"
#include "runtime/tokenizer.h"
#include "tests/fuzz/fuzz.h"

namespace {

const sessa::Tokenizer& Recall() {
  static const std::unique_ptr<sessa::Tokenizer> tokenizer = [] {
    auto loaded = sessa::LoadSentencePieceTokenizer("models/sessa-recall-7m/tokenizer.model");
    if (!loaded.ok()) std::fprintf(stderr, "%s\n", loaded.status().ToString().c_str());
    FUZZ_CHECK(loaded.ok());
    return *std::move(loaded);
  }();
  return *tokenizer;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto ids = Recall().Encode(text);
  FUZZ_CHECK(ids.ok() == sessa::IsValidUtf8(text));
  if (!ids.ok()) return 0;
  for (const int32_t id : *ids) {
    FUZZ_CHECK(id >= 0 && id < Recall().vocab_size());
    FUZZ_CHECK(!Recall().IsSpecial(id));
  }
  FUZZ_CHECK(sessa::IsValidUtf8(sessa::DecodeTokens(Recall(), *ids, true)));
  return 0;
}
