// A tokenizer whose tokens are given by the test: token i appends pieces[i].
#pragma once

#include <cassert>
#include <string>
#include <utility>
#include <vector>

#include "runtime/tokenizer.h"

namespace sessa {

class FakeTokenizer : public Tokenizer {
 public:
  // Pieces that begin with "<s" are special: they append nothing and are named so.
  explicit FakeTokenizer(std::vector<std::string> pieces) : pieces_(std::move(pieces)) {}

  int32_t vocab_size() const override { return static_cast<int32_t>(pieces_.size()); }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view) const override {
    return absl::UnimplementedError("not needed");
  }
  absl::string_view TokenBytes(int32_t id) const override { return IsSpecial(id) ? "" : TokenName(id); }
  absl::string_view TokenName(int32_t id) const override { return pieces_.at(id); }
  bool IsSpecial(int32_t id) const override { return pieces_.at(id).rfind("<s", 0) == 0; }

 private:
  const std::vector<std::string> pieces_;
};

}  // namespace sessa
