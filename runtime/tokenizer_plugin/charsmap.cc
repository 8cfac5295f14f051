#include "runtime/tokenizer_plugin/charsmap.h"

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sessa {
namespace {

// SentencePiece has room for so many rules that begin a text (Normalizer::kMaxTrieResultsSize), and reads
// beyond it when there are more.
constexpr int kMostNestedRules = 32;

absl::Status Damaged(absl::string_view reason) {
  return absl::InvalidArgumentError(absl::StrCat("precompiled_charsmap: ", reason));
}

class Trie {
 public:
  // `bytes`: a multiple of 4, at least one unit.
  Trie(absl::string_view bytes, size_t replacements)
      : units_(bytes.size() / 4), nested_(units_.size(), kUnseen), replacements_(replacements) {
    std::memcpy(units_.data(), bytes.data(), bytes.size());  // little-endian, as this machine
  }

  // Walks from the root along every byte; a unit is visited again only when more rules end on the new way to
  // it, so that a circle of units ends as well.
  absl::Status Check() {
    if (const absl::Status status = AddChildren(0, 0); !status.ok()) return status;
    while (!open_.empty()) {
      const uint32_t unit = open_.back();
      open_.pop_back();
      if (const absl::Status status = AddChildren(unit, nested_[unit]); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  static constexpr int8_t kUnseen = -1;

  static bool EndsRule(uint32_t unit) { return (unit >> 8 & 1) != 0; }
  static uint32_t Label(uint32_t unit) { return unit & 0x8000'00ff; }  // no byte in a unit that holds a place
  static uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & 0x200) >> 6); }
  static uint32_t Place(uint32_t unit) { return unit & 0x7fff'ffff; }
  uint32_t Base(uint32_t at) const { return at ^ Offset(units_[at]); }

  // Opens the children of a unit; `nested` rules end on the way to it, itself included.
  absl::Status AddChildren(uint32_t at, int nested) {
    const uint32_t base = Base(at);
    if ((base | 0xff) >= units_.size()) {
      return Damaged(absl::StrCat("unit ", at, " leads to units around ", base, " of ", units_.size()));
    }
    for (uint32_t c = 0; c < 256; ++c) {
      const uint32_t child = base ^ c;
      if (Label(units_[child]) != c) continue;
      int rules = nested;
      if (EndsRule(units_[child])) {
        if (const absl::Status status = CheckRule(child, ++rules); !status.ok()) return status;
      }
      if (rules <= nested_[child]) continue;
      nested_[child] = static_cast<int8_t>(rules);
      open_.push_back(child);
    }
    return absl::OkStatus();
  }

  absl::Status CheckRule(uint32_t at, int nested) const {
    if (nested > kMostNestedRules) {
      return Damaged(absl::StrCat("more than ", kMostNestedRules, " rules begin alike"));
    }
    const uint32_t base = Base(at);
    if (base >= units_.size() || Place(units_[base]) >= replacements_) {
      return Damaged(absl::StrCat("the replacement of unit ", at, " lies outside"));
    }
    return absl::OkStatus();
  }

  std::vector<uint32_t> units_;
  std::vector<int8_t> nested_;  // by unit: the most rules that end on a way to it, or kUnseen
  const size_t replacements_;   // bytes
  std::vector<uint32_t> open_;  // units whose children are to be looked at
};

}  // namespace

absl::Status CheckCharsmap(absl::string_view charsmap) {
  if (charsmap.empty()) return absl::OkStatus();
  uint32_t size = 0;
  if (charsmap.size() < sizeof(size)) return Damaged("shorter than its first number");
  std::memcpy(&size, charsmap.data(), sizeof(size));
  charsmap.remove_prefix(sizeof(size));
  if (size == 0 || size % 4 != 0 || size > charsmap.size()) {
    return Damaged(absl::StrCat("a trie of ", size, " bytes in ", charsmap.size()));
  }
  const absl::string_view replacements = charsmap.substr(size);
  if (replacements.empty() || replacements.back() != '\0') {
    return Damaged("its replacements do not end in NUL");
  }
  return Trie(charsmap.substr(0, size), replacements.size()).Check();
}

}  // namespace sessa
