#include "runtime/text/text_stream.h"

#include <cassert>
#include <utility>

namespace sessa {

TextStream::TextStream(const Tokenizer* tokenizer, const TextOptions& options)
    : tokenizer_(tokenizer), options_(options), matcher_(options.stop) {}

TextPiece TextStream::Push(int32_t token) {
  assert(!finished_);
  ++tokens_;
  if (tokenizer_ == nullptr) return {};
  const bool by_name = !options_.skip_special_tokens && tokenizer_->IsSpecial(token);
  const size_t read = held_.size();  // of held_, by the matcher
  decoder_.Append(by_name ? tokenizer_->TokenName(token) : tokenizer_->TokenBytes(token), &held_);

  TextPiece piece;
  const absl::string_view fresh = absl::string_view(held_).substr(read);
  if (const auto match = matcher_.Read(fresh, tokens_ > options_.min_tokens)) {
    const std::string& stop = options_.stop[match->stop];
    const size_t end = read + match->end;
    piece.stop_matched = stop;
    piece.text = held_.substr(0, options_.include_stop ? end : end - stop.size());
    held_.clear();
    finished_ = true;
    return piece;
  }
  const size_t final_bytes = held_.size() - matcher_.MayBegin();
  piece.text = held_.substr(0, final_bytes);
  held_.erase(0, final_bytes);
  return piece;
}

std::string TextStream::Finish() {
  if (finished_) return "";
  finished_ = true;
  decoder_.Finish(&held_);
  return std::exchange(held_, std::string());
}

std::string DecodeTokens(const Tokenizer& tokenizer, absl::Span<const int32_t> tokens,
                         bool skip_special_tokens) {
  TextStream stream(&tokenizer, TextOptions{.skip_special_tokens = skip_special_tokens});
  std::string text;
  for (const int32_t token : tokens) text += stream.Push(token).text;
  return text + stream.Finish();
}

}  // namespace sessa
