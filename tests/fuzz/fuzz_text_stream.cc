// Any tokens and stop strings: the text of a stream is valid UTF-8, and what searching the whole text gives.
//
// Input: a byte of options, then strings that end with a byte 0xFF: first the stop strings, as many as the
// option byte says, then the tokens. 0xFF occurs in no UTF-8, so nothing is lost by it.
#include <string>
#include <vector>

#include "runtime/text/text_stream.h"
#include "tests/fuzz/fuzz.h"
#include "tests/runtime/text/fake_tokenizer.h"

namespace {

std::vector<std::string> Strings(absl::string_view input) {
  std::vector<std::string> strings;
  std::string current;
  for (const char c : input) {
    if (c != '\xFF') {
      current.push_back(c);
      continue;
    }
    strings.push_back(current);
    current.clear();
  }
  strings.push_back(current);
  return strings;
}

// Where the first stop string ends in the text, and the longest that ends there.
size_t FirstEnd(const std::string& text, const std::vector<std::string>& stops, std::string* stop) {
  size_t first = std::string::npos;
  for (const std::string& s : stops) {
    const size_t at = text.find(s);
    if (at == std::string::npos) continue;
    const size_t end = at + s.size();
    if (end < first || (end == first && s.size() > stop->size())) *stop = s;
    first = end < first ? end : first;
  }
  return first;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::vector<std::string> tokens = Strings({reinterpret_cast<const char*>(data) + 1, size - 1});
  sessa::TextOptions options{.include_stop = (data[0] & 1) != 0, .skip_special_tokens = (data[0] & 2) != 0};
  for (int stops = data[0] >> 2 & 7; stops > 0 && !tokens.empty(); --stops) {
    if (!tokens[0].empty() && sessa::IsValidUtf8(tokens[0])) options.stop.push_back(tokens[0]);
    tokens.erase(tokens.begin());
  }
  const sessa::FakeTokenizer tokenizer(tokens);
  const int32_t count = tokenizer.vocab_size();

  std::string whole;
  sessa::Utf8Decoder decoder;
  for (int32_t id = 0; id < count; ++id) {
    const bool named = tokenizer.IsSpecial(id) && !options.skip_special_tokens;
    decoder.Append(named ? tokenizer.TokenName(id) : tokenizer.TokenBytes(id), &whole);
  }
  std::string stop;
  const size_t end = FirstEnd(whole, options.stop, &stop);
  std::string expected = whole;
  if (end == std::string::npos) {
    decoder.Finish(&expected);
  } else {
    expected.resize(options.include_stop ? end : end - stop.size());
  }

  sessa::TextStream stream(&tokenizer, options);
  std::string text;
  bool stopped = false;
  for (int32_t id = 0; id < count && !stopped; ++id) {
    const sessa::TextPiece piece = stream.Push(id);
    FUZZ_CHECK(sessa::IsValidUtf8(piece.text));
    text += piece.text;
    stopped = piece.stop_matched.has_value();
    FUZZ_CHECK(!stopped || *piece.stop_matched == stop);
  }
  text += stream.Finish();
  FUZZ_CHECK(stopped == (end != std::string::npos));
  FUZZ_CHECK(text == expected);
  return 0;
}
