// Small SentencePiece model files, made byte by byte.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sessa {

inline std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}
inline std::string NumberField(uint32_t field, uint64_t value) { return Varint(field << 3) + Varint(value); }
inline std::string BytesField(uint32_t field, const std::string& bytes) {
  return Varint(field << 3 | 2) + Varint(bytes.size()) + bytes;
}

using TestRules = std::vector<std::pair<std::string, std::string>>;  // text, replacement

// Rewriting rules as a trie (runtime/tokenizer_plugin/charsmap.h) in which every node has 256 units of its
// own: the children of node n, n from 0, lie from 256 (n + 1). A unit's fields can be spoilt before Bytes.
class TestCharsmap {
 public:
  explicit TestCharsmap(const TestRules& rules) {
    AddNode();
    SetBase(0, Children(0));
    for (const auto& [text, replacement] : rules) {
      uint32_t unit = 0;
      for (const char c : text) unit = Child(unit, static_cast<uint8_t>(c));
      units[unit] |= 0x100;
      units[BaseOf(unit)] = kNoLabel | static_cast<uint32_t>(replacements.size());
      replacements += replacement + '\0';
    }
  }

  // The unit of the node that `text` leads to.
  uint32_t UnitOf(const std::string& text) {
    uint32_t unit = 0;
    for (const char c : text) unit = Child(unit, static_cast<uint8_t>(c));
    return unit;
  }
  uint32_t BaseOf(uint32_t unit) const { return unit ^ (units[unit] >> 10); }
  void SetBase(uint32_t unit, uint32_t base) { units[unit] = (units[unit] & 0x3ff) | (unit ^ base) << 10; }

  std::string Bytes() const { return Number(units.size() * 4) + TrieBytes() + replacements; }
  std::string TrieBytes() const {
    std::string bytes;
    for (const uint32_t unit : units) bytes += Number(unit);
    return bytes;
  }
  static std::string Number(uint32_t value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(value));  // little-endian
  }

  std::vector<uint32_t> units;
  std::string replacements;

 private:
  static constexpr uint32_t kNoLabel = 0x8000'0000;
  static uint32_t Children(uint32_t node) { return 256 * (node + 1); }

  uint32_t AddNode() {
    if (units.empty()) units.assign(256, kNoLabel), units[0] = 0;
    units.resize(units.size() + 256, kNoLabel);
    return nodes_++;
  }
  uint32_t Child(uint32_t unit, uint8_t c) {
    const uint32_t child = BaseOf(unit) ^ c;
    if (units[child] == kNoLabel) {
      units[child] = c;
      SetBase(child, Children(AddNode()));
    }
    return child;
  }

  uint32_t nodes_ = 0;
};

// A unigram model of <unk>, <s>, </s>, the letters and U+2581.
struct TestModel {
  std::string charsmap;  // empty: none
  bool drops_spaces = false;
  bool byte_fallback = false;
  std::vector<std::string> symbols;  // user-defined

  std::string Bytes() const {
    std::string bytes = Piece("<unk>", 2) + Piece("<s>", 3) + Piece("</s>", 3) + Piece("\xE2\x96\x81", 1);
    for (char c = 'a'; c <= 'z'; ++c) bytes += Piece(std::string(1, c), 1);
    if (byte_fallback) {
      for (int byte = 0; byte < 256; ++byte) bytes += Piece(absl::StrFormat("<0x%02X>", byte), 6);
    }
    for (const std::string& symbol : symbols) bytes += Piece(symbol, 4);
    std::string normalizer = NumberField(3, 0) + NumberField(4, drops_spaces);
    if (!charsmap.empty()) normalizer += BytesField(2, charsmap);
    return absl::StrCat(bytes, BytesField(2, NumberField(3, 1) + NumberField(35, byte_fallback)),
                        BytesField(3, normalizer));
  }

 private:
  static std::string Piece(const std::string& name, int type) {
    const std::string score = Varint(2 << 3 | 5) + TestCharsmap::Number(0xbf800000);  // -1.0f
    return BytesField(1, BytesField(1, name) + score + NumberField(3, type));
  }
};

}  // namespace sessa
