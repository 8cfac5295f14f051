// A model whose tokens are the ASCII characters, for a daemon over a fake core.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/daemon.h"

namespace sessa {

class LettersTokenizer : public Tokenizer {
 public:
  int32_t vocab_size() const override { return 128; }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const override {
    ++encoded;
    return std::vector<int32_t>(text.begin(), text.end());
  }
  absl::string_view TokenBytes(int32_t id) const override {
    for (int i = 0; i < 128; ++i) bytes_[i] = static_cast<char>(i);
    return id == 0 ? "" : absl::string_view(&bytes_[id], 1);
  }
  absl::string_view TokenName(int32_t id) const override { return id == 0 ? "<s>" : TokenBytes(id); }
  bool IsSpecial(int32_t id) const override { return id == 0; }

  mutable std::atomic<int> encoded{0};  // texts

 private:
  mutable char bytes_[128] = {};
};

inline ServedModel LettersModel(std::unique_ptr<Core> core) {
  ServedModel model;
  model.core = std::move(core);
  model.tokenizer = std::make_shared<LettersTokenizer>();
  model.limits.vocab = 128;
  model.limits.max_context = 1000;
  model.limits.max_token_bytes = 1;
  model.limits.has_tokenizer = true;
  model.description.set_name("letters");
  model.description.set_backend("fake");
  return model;
}

}  // namespace sessa
