// Safetensors files: a valid one, and the same with one thing wrong.
#include "runtime/checkpoint/safetensors.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/checkpoint/safetensors_bytes.h"

namespace sessa {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

// Two tensors: "a", 2 x 3 float32, and "b", a bf16 scalar.
constexpr char kA[] = R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]})";
constexpr char kB[] = R"("b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]})";
std::string Header(absl::string_view a, absl::string_view b) { return absl::StrCat("{", a, ",", b, "}"); }
std::string Data() { return std::string(26, 'x'); }

TEST(SafetensorsTest, ReadsAValidFile) {
  const std::string bytes =
      SafetensorsBytes(absl::StrCat("{\"__metadata__\":{\"format\":\"pt\"},", kB, ",", kA, "}   "),
                       std::string(24, 'a') + "bb");
  const auto entries = ParseSafetensors("f", bytes);
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_THAT(*entries, SizeIs(2));
  EXPECT_EQ((*entries)[0].name, "a");
  EXPECT_EQ((*entries)[0].dtype, "F32");
  EXPECT_EQ((*entries)[0].dims, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ((*entries)[0].bytes, std::string(24, 'a'));
  EXPECT_EQ((*entries)[1].name, "b");
  EXPECT_TRUE((*entries)[1].dims.empty());
  EXPECT_EQ((*entries)[1].bytes, "bb");
}

TEST(SafetensorsTest, ReadsAFileWithoutTensorsAndTensorsWithoutNumbers) {
  EXPECT_TRUE(ParseSafetensors("f", SafetensorsBytes("{}", "")).ok());
  const auto entries = ParseSafetensors(
      "f", SafetensorsBytes(R"({"e":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]}})", ""));
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_TRUE((*entries)[0].bytes.empty());
}

struct Wrong {
  const char* what;
  std::string bytes;
  const char* error;  // part of the message
};

class WrongSafetensorsTest : public testing::TestWithParam<Wrong> {};

TEST_P(WrongSafetensorsTest, IsRefused) {
  const auto entries = ParseSafetensors("dir/the.safetensors", GetParam().bytes);
  ASSERT_FALSE(entries.ok());
  EXPECT_EQ(entries.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(entries.status().message()), HasSubstr("dir/the.safetensors: "));
  EXPECT_THAT(std::string(entries.status().message()), HasSubstr(GetParam().error));
}

// The base file with another header, or with another "a" and "b".
std::string With(absl::string_view header) { return SafetensorsBytes(header, Data()); }
std::string WithA(absl::string_view a) { return With(Header(a, kB)); }
std::string WithB(absl::string_view b) { return With(Header(kA, b)); }
std::string Length(uint64_t length, absl::string_view rest) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(length >> (8 * i)));
  return absl::StrCat(bytes, rest);
}

INSTANTIATE_TEST_SUITE_P(
    All, WrongSafetensorsTest,
    testing::ValuesIn(std::vector<Wrong>{
        {"empty", "", "shorter than the 8 bytes"},
        {"short_length", "\x05", "shorter than the 8 bytes"},
        {"length_only", Length(2, ""), "truncated"},
        {"header_cut", SafetensorsBytes(Header(kA, kB), Data()).substr(0, 60), "truncated"},
        {"data_cut", SafetensorsBytes(Header(kA, kB), std::string(25, 'x')),
         "tensor \"b\": ends at byte 26 of the data, which has only 25"},
        {"no_data", SafetensorsBytes(Header(kA, kB), ""), "truncated"},
        {"header_of_100_MB", Length(100'000'001, std::string(100, ' ')), "at most 100000000"},
        {"header_of_2_to_64", Length(~uint64_t{0}, "{}"), "at most 100000000"},
        {"not_json", With("hello"), "does not begin with {"},
        {"empty_header", With(""), "does not begin with {"},
        {"leading_space", With(absl::StrCat(" ", Header(kA, kB))), "does not begin with {"},
        {"json_cut", With(R"({"a":{"dtype":"F3)"), "not JSON at byte"},
        {"json_rest", With(absl::StrCat(Header(kA, kB), "x")), "not JSON at byte"},
        {"two_objects", With(absl::StrCat(Header(kA, kB), "{}")), "not JSON at byte"},
        {"bad_utf8", WithA("\"\xff\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0,24]}"),
         "not JSON at byte"},
        {"nested_deeply", With(absl::StrCat("{\"a\":", std::string(1'000'000, '['))),
         "tensor \"a\": the header has an array"},
        {"duplicate_tensor", WithB(R"("a":{"dtype":"BF16","shape":[],"data_offsets":[24,26]})"),
         "tensor \"a\": duplicate key"},
        {"duplicate_field", WithA(R"("a":{"dtype":"F32","dtype":"F32","shape":[2,3],"data_offsets":[0,24]})"),
         "tensor \"a\": duplicate key \"dtype\""},
        {"duplicate_metadata",
         With(absl::StrCat("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"},", kA, ",", kB, "}")),
         "duplicate key \"k\""},
        {"metadata_number", With(absl::StrCat("{\"__metadata__\":{\"k\":1},", kA, ",", kB, "}")),
         "a number in a wrong place"},
        {"unknown_field", WithA(R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24],"x":"y"})"),
         "tensor \"a\": unknown key \"x\""},
        {"no_dtype", WithA(R"("a":{"shape":[2,3],"data_offsets":[0,24]})"),
         "tensor \"a\": needs dtype, shape and"},
        {"no_shape", WithA(R"("a":{"dtype":"F32","data_offsets":[0,24]})"),
         "tensor \"a\": needs dtype, shape and"},
        {"no_offsets", WithA(R"("a":{"dtype":"F32","shape":[2,3]})"), "tensor \"a\": needs dtype, shape and"},
        {"null_tensor", WithA(R"("a":null)"), "tensor \"a\": the header has null"},
        {"array_tensor", WithA(R"("a":[])"), "tensor \"a\": the header has an array"},
        {"number_tensor", WithA(R"("a":7)"), "tensor \"a\": the header has a number"},
        {"dtype_number", WithA(R"("a":{"dtype":32,"shape":[2,3],"data_offsets":[0,24]})"),
         "tensor \"a\": the header has a number"},
        {"dtype_unknown", WithA(R"("a":{"dtype":"F31","shape":[2,3],"data_offsets":[0,24]})"),
         "tensor \"a\": unknown dtype \"F31\""},
        {"shape_string", WithA(R"("a":{"dtype":"F32","shape":["2"],"data_offsets":[0,24]})"),
         "tensor \"a\": the header has a string"},
        {"shape_negative", WithA(R"("a":{"dtype":"F32","shape":[-2,-3],"data_offsets":[0,24]})"),
         "tensor \"a\": the header has a negative"},
        {"shape_fraction", WithA(R"("a":{"dtype":"F32","shape":[2.0,3],"data_offsets":[0,24]})"),
         "tensor \"a\": the header has a fraction"},
        {"shape_huge", WithA(R"("a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,24]})"),
         "tensor \"a\": a dimension is too large"},
        {"shape_beyond_uint64",
         WithA(R"("a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,24]})"),
         "tensor \"a\": the header has a fraction"},
        {"shape_nested", WithA(R"("a":{"dtype":"F32","shape":[[2,3]],"data_offsets":[0,24]})"),
         "tensor \"a\": the header has an array"},
        {"shape_nine_dims", WithA(R"("a":{"dtype":"F32","shape":[6,1,1,1,1,1,1,1,1],"data_offsets":[0,24]})"),
         "tensor \"a\": more than 8 dimensions"},
        {"product_overflows",
         WithA(R"("a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,24]})"),
         "tensor \"a\": the product of its shape overflows"},
        {"product_overflows_to_0",
         WithA(R"("a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]})"),
         "tensor \"a\": the product of its shape overflows"},
        {"offsets_one", WithA(R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[24]})"),
         "tensor \"a\": data_offsets must be two"},
        {"offsets_three", WithA(R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24,26]})"),
         "tensor \"a\": data_offsets must be two"},
        {"offsets_negative", WithA(R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[-24,0]})"),
         "tensor \"a\": the header has a negative"},
        {"offsets_backwards", WithA(R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[24,0]})"),
         "tensor \"a\": data_offsets 24, 0 run backwards"},
        {"size_too_small", WithA(R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]})"),
         "tensor \"a\": its shape needs 24 bytes, data_offsets give 20"},
        {"size_too_large", WithB(R"("b":{"dtype":"BF16","shape":[],"data_offsets":[24,28]})"),
         "tensor \"b\": its shape needs 2 bytes, data_offsets give 4"},
        {"beyond_the_end",
         WithB(
             R"("b":{"dtype":"BF16","shape":[],"data_offsets":[18446744073709551613,18446744073709551615]})"),
         "tensor \"b\": ends at byte 18446744073709551615"},
        {"overlap", WithB(R"("b":{"dtype":"BF16","shape":[],"data_offsets":[22,24]})"),
         "tensor \"b\": overlaps tensor \"a\""},
        {"same_place", WithB(R"("b":{"dtype":"F32","shape":[6],"data_offsets":[0,24]})"),
         "tensor \"b\": overlaps tensor \"a\""},
        {"gap",
         SafetensorsBytes(Header(kA, R"("b":{"dtype":"BF16","shape":[],"data_offsets":[25,27]})"),
                          std::string(27, 'x')),
         "tensor \"b\": 1 unused bytes lie before it"},
        {"gap_at_start", With(absl::StrCat("{", kB, "}")), "tensor \"b\": 24 unused bytes lie before it"},
        {"rest", SafetensorsBytes(Header(kA, kB), std::string(30, 'x')), "4 bytes follow the last tensor"},
        {"rest_without_tensors", SafetensorsBytes("{}", "x"), "1 bytes follow the last tensor"},
    }),
    [](const testing::TestParamInfo<Wrong>& info) { return info.param.what; });

TEST(SafetensorsTest, ControlCharactersOfNamesAreEscapedAndLongNamesCut) {
  const auto escaped = ParseSafetensors("f", With(R"({"\u001b[31m":null})"));
  EXPECT_THAT(std::string(escaped.status().message()), HasSubstr(R"("\x1b[31m")"));
  const auto cut = ParseSafetensors("f", With(absl::StrCat("{\"", std::string(10'000, 'n'), "\":null}")));
  EXPECT_LT(cut.status().message().size(), 400u);
}

TEST(SafetensorsTest, HundredThousandTensors) {
  std::vector<TestTensor> tensors;
  for (int i = 0; i < 100'000; ++i) tensors.push_back({absl::StrCat("tensor.", i), "F16", {1}, "xy"});
  const std::string bytes = SafetensorsBytes(tensors);
  const auto entries = ParseSafetensors("f", bytes);
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_THAT(*entries, SizeIs(100'000));
}

// A mistake anywhere must not be worse than a refusal.
TEST(SafetensorsTest, EveryTruncationIsRefused) {
  const std::string bytes = SafetensorsBytes(Header(kA, kB), Data());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(ParseSafetensors("f", absl::string_view(bytes).substr(0, size)).ok()) << size;
  }
}

TEST(SafetensorsTest, OpenNamesTheFile) {
  EXPECT_EQ(SafetensorsFile::Open("/nowhere/f").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(SafetensorsFile::Open("/nowhere/f").status().message()), HasSubstr("/nowhere/f: "));
  EXPECT_THAT(std::string(SafetensorsFile::Open("/").status().message()), HasSubstr("/: not a regular file"));
}

TEST(SafetensorsTest, FindsByName) {
  const auto file = SafetensorsFile::Open("tests/golden/base/expected.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_NE((*file)->Find("logits"), nullptr);
  EXPECT_EQ((*file)->Find("logits")->dims.size(), 2u);
  EXPECT_EQ((*file)->Find("logit"), nullptr);
  EXPECT_EQ((*file)->Find("zzz"), nullptr);
}

}  // namespace
}  // namespace sessa
