// What is checked before SentencePiece gets a model file.
#include "runtime/tokenizer_plugin/model_file.h"

#include <functional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/tokenizer_plugin/charsmap.h"
#include "tests/runtime/tokenizer/model_bytes.h"

namespace sessa {
namespace {

using testing::HasSubstr;

// Two rules: "A" to "a", and a ligature to two letters.
TestCharsmap Sound() { return TestCharsmap(TestRules{{"A", "a"}, {"\xEF\xAC\x81", "fi"}}); }

// Rules for "a", "aa", ... up to `count` letters.
TestCharsmap Nested(size_t count) {
  TestRules rules;
  for (size_t i = 1; i <= count; ++i) rules.emplace_back(std::string(i, 'a'), "b");
  return TestCharsmap(rules);
}

void ExpectDamaged(const std::string& charsmap, const std::string& reason) {
  const absl::Status status = CheckCharsmap(charsmap);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << reason;
  EXPECT_THAT(std::string(status.message()), HasSubstr("precompiled_charsmap: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(reason));
}

TEST(CharsmapTest, SoundOnes) {
  EXPECT_TRUE(CheckCharsmap("").ok());
  EXPECT_TRUE(CheckCharsmap(Sound().Bytes()).ok());
  EXPECT_TRUE(CheckCharsmap(Nested(32).Bytes()).ok());
}

TEST(CharsmapTest, TheTrieLiesInside) {
  const TestCharsmap sound = Sound();
  const std::string rest = sound.TrieBytes() + sound.replacements;
  ExpectDamaged("abc", "shorter");
  ExpectDamaged(std::string(4, '\0'), "a trie of 0 bytes");
  ExpectDamaged(TestCharsmap::Number(0) + rest, "a trie of 0 bytes");
  ExpectDamaged(TestCharsmap::Number(sound.units.size() * 4 - 1) + rest, "a trie of");
  ExpectDamaged(TestCharsmap::Number(rest.size() + 4) + rest, "a trie of");
  ExpectDamaged(TestCharsmap::Number(0xfffffffc) + rest, "a trie of 4294967292 bytes");
}

TEST(CharsmapTest, ReplacementsEnd) {
  TestCharsmap map = Sound();
  map.replacements.pop_back();
  ExpectDamaged(map.Bytes(), "do not end in NUL");
  map.replacements.clear();
  ExpectDamaged(map.Bytes(), "do not end in NUL");
}

TEST(CharsmapTest, UnitsLeadInside) {
  for (const char* text : {"", "A", "\xEF", "\xEF\xAC"}) {
    TestCharsmap map = Sound();
    const uint32_t unit = map.UnitOf(text);
    map.SetBase(unit, map.units.size());  // the first that is not there
    ExpectDamaged(map.Bytes(), *text == 'A' ? "lies outside" : "leads to units around");
    map.units[unit] |= 0x200;  // the offset times 256
    ExpectDamaged(map.Bytes(), *text == 'A' ? "lies outside" : "leads to units around");
  }
  TestCharsmap map = Sound();
  map.units[0] = 0xffffffff;  // no label is looked for at the root
  ExpectDamaged(map.Bytes(), "unit 0 leads to");
  TestCharsmap small = Sound();
  small.units.resize(1);
  ExpectDamaged(small.Bytes(), "unit 0 leads to");
}

TEST(CharsmapTest, RulesEndInReplacements) {
  TestCharsmap map = Sound();
  map.units[map.BaseOf(map.UnitOf("A"))] = 0x80000000 | map.replacements.size();
  ExpectDamaged(map.Bytes(), "lies outside");
  map.units[map.BaseOf(map.UnitOf("A"))] =
      map.replacements.size();  // SentencePiece does not look at the mark
  ExpectDamaged(map.Bytes(), "lies outside");
}

TEST(CharsmapTest, NoMoreNestedRulesThanThereIsRoomFor) {
  ExpectDamaged(Nested(33).Bytes(), "more than 32 rules begin alike");
  TestCharsmap circle = Nested(2);
  circle.SetBase(circle.UnitOf("aa"), circle.BaseOf(circle.UnitOf("a")));
  ExpectDamaged(circle.Bytes(), "more than 32 rules begin alike");
}

TEST(CharsmapTest, ACircleWithoutRulesEnds) {
  TestCharsmap circle(TestRules{{"b", "c"}});
  circle.SetBase(circle.UnitOf("a"), circle.BaseOf(0));
  EXPECT_TRUE(CheckCharsmap(circle.Bytes()).ok());
}

TEST(ModelFileTest, FindsTheCharsmapsOfBothSpecs) {
  TestCharsmap damaged = Sound();
  damaged.replacements.pop_back();
  TestModel model;
  model.charsmap = damaged.Bytes();
  EXPECT_THAT(std::string(CheckTokenizerModel(model.Bytes()).status().message()), HasSubstr("end in NUL"));
  model.charsmap = Sound().Bytes();
  EXPECT_TRUE(CheckTokenizerModel(model.Bytes()).ok());
  // What follows is merged with what was there, as protobuf does it.
  for (const uint32_t spec : {3, 5}) {
    const std::string more = BytesField(spec, BytesField(2, damaged.Bytes()));
    EXPECT_THAT(std::string(CheckTokenizerModel(model.Bytes() + more).status().message()),
                HasSubstr("end in NUL"));
  }
}

TEST(ModelFileTest, DamagedMessages) {
  for (const std::string& bytes :
       {std::string("\xff"), Varint(1 << 3 | 3), Varint(1 << 3 | 6), NumberField(0, 1), Varint(1 << 3),
        Varint(3 << 3 | 2) + Varint(5) + "abc", Varint(3 << 3 | 1) + "1234567", Varint(3 << 3 | 5) + "123",
        Varint((uint64_t{1} << 32) | 3 << 3 | 2) + Varint(0), std::string("\x08") + std::string(11, '\xff'),
        BytesField(1, "\xff"), BytesField(2, "\xff"), BytesField(3, "\xff"), BytesField(5, "\xff")}) {
    EXPECT_EQ(CheckTokenizerModel(bytes).status().message(), "damaged or truncated");
  }
  EXPECT_TRUE(CheckTokenizerModel("").ok());  // that it is no model is for SentencePiece to say
}

TEST(ModelFileTest, NoMoreNestedSymbolsThanThereIsRoomFor) {
  TestModel model;
  for (size_t i = 1; i <= 64; ++i) {
    model.symbols.push_back(std::string(i, 'x'));
    model.symbols.push_back(std::string(i, 'y'));
  }
  EXPECT_TRUE(CheckTokenizerModel(model.Bytes()).ok());
  model.symbols.push_back(std::string(65, 'x'));
  EXPECT_EQ(CheckTokenizerModel(model.Bytes()).status().message(),
            "more than 64 user-defined symbols begin alike");
}

TEST(ModelFileTest, WhetherEveryByteIsKept) {
  const auto keeps = [](const std::function<void(TestModel*)>& change, const std::string& more = "") {
    TestModel model;
    model.byte_fallback = true;
    change(&model);
    return CheckTokenizerModel(model.Bytes() + more).value().keeps_every_byte;
  };
  EXPECT_TRUE(keeps([](TestModel*) {}));
  EXPECT_FALSE(keeps([](TestModel* model) { model->charsmap = Sound().Bytes(); }));
  EXPECT_FALSE(keeps([](TestModel* model) { model->drops_spaces = true; }));
  EXPECT_FALSE(keeps([](TestModel* model) { model->byte_fallback = false; }));
  EXPECT_FALSE(CheckTokenizerModel("").value().keeps_every_byte);  // SentencePiece's defaults
  // The last value counts; one of another wire type does not.
  EXPECT_FALSE(keeps([](TestModel*) {}, BytesField(2, NumberField(35, 0))));
  EXPECT_TRUE(keeps([](TestModel* model) { model->drops_spaces = true; },
                    BytesField(3, NumberField(4, 0) + BytesField(4, "on"))));
}

}  // namespace
}  // namespace sessa
