// Which sampling parameters are accepted: valid ones, and the same with one thing changed.
#include "runtime/sampling.h"

#include <functional>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/base/errors.h"

namespace sessa {
namespace {

constexpr int32_t kVocab = 10;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(SamplingTest, DefaultsAndLimitsAreValid) {
  SampleParams params;
  EXPECT_TRUE(PrepareSampleParams(kVocab, &params).ok());
  params = {.temperature = 100,
            .top_k = 1 << 30,
            .top_p = 1,
            .min_p = 1,
            .repetition_penalty = 100,
            .presence_penalty = -100,
            .frequency_penalty = 100,
            .logit_bias = {{9, -100.0f}, {0, 100.0f}},
            .allowed_tokens = {9, 0},
            .min_tokens = 5,
            .enders = {9},
            .top_logprobs = 20};
  EXPECT_TRUE(PrepareSampleParams(kVocab, &params).ok());
}

TEST(SamplingTest, ListsAreSortedAndRepetitionsDropped) {
  SampleParams params{
      .logit_bias = {{5, 1.0f}, {2, -1.0f}}, .allowed_tokens = {7, 2, 7, 5}, .enders = {3, 1, 3}};
  ASSERT_TRUE(PrepareSampleParams(kVocab, &params).ok());
  EXPECT_EQ(params.allowed_tokens, (std::vector<int32_t>{2, 5, 7}));
  EXPECT_EQ(params.enders, (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(params.logit_bias, (std::vector<std::pair<int32_t, float>>{{2, -1.0f}, {5, 1.0f}}));
}

struct Row {
  const char* field;
  std::function<void(SampleParams&)> change;
};

TEST(SamplingTest, WrongValuesAreRefusedByName) {
  const std::vector<Row> rows = {
      {"sampling.temperature", [](SampleParams& p) { p.temperature = -0.1f; }},
      {"sampling.temperature", [](SampleParams& p) { p.temperature = 100.5f; }},
      {"sampling.temperature", [](SampleParams& p) { p.temperature = kNan; }},
      {"sampling.temperature", [](SampleParams& p) { p.temperature = kInf; }},
      {"sampling.top_k", [](SampleParams& p) { p.top_k = -1; }},
      {"sampling.top_p", [](SampleParams& p) { p.top_p = 0; }},
      {"sampling.top_p", [](SampleParams& p) { p.top_p = 1.001f; }},
      {"sampling.top_p", [](SampleParams& p) { p.top_p = kNan; }},
      {"sampling.min_p", [](SampleParams& p) { p.min_p = -0.1f; }},
      {"sampling.min_p", [](SampleParams& p) { p.min_p = 1.1f; }},
      {"sampling.min_p", [](SampleParams& p) { p.min_p = kNan; }},
      {"sampling.repetition_penalty", [](SampleParams& p) { p.repetition_penalty = 0; }},
      {"sampling.repetition_penalty", [](SampleParams& p) { p.repetition_penalty = -1; }},
      {"sampling.repetition_penalty", [](SampleParams& p) { p.repetition_penalty = 101; }},
      {"sampling.repetition_penalty", [](SampleParams& p) { p.repetition_penalty = kNan; }},
      {"sampling.presence_penalty", [](SampleParams& p) { p.presence_penalty = -101; }},
      {"sampling.presence_penalty", [](SampleParams& p) { p.presence_penalty = kNan; }},
      {"sampling.frequency_penalty", [](SampleParams& p) { p.frequency_penalty = 101; }},
      {"sampling.frequency_penalty", [](SampleParams& p) { p.frequency_penalty = -kInf; }},
      {"sampling.min_tokens", [](SampleParams& p) { p.min_tokens = -1; }},
      {"sampling.min_tokens", [](SampleParams& p) { p.min_tokens = 1, p.allowed_tokens = p.enders = {4}; }},
      {"sampling.min_tokens",
       [](SampleParams& p) { p.min_tokens = 1, p.enders = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}; }},
      {"sampling.logprobs", [](SampleParams& p) { p.top_logprobs = 21; }},
      {"sampling.logprobs", [](SampleParams& p) { p.top_logprobs = -2; }},
      {"sampling.logit_bias",
       [](SampleParams& p) {
         p.logit_bias = {{10, 0.0f}};
       }},
      {"sampling.logit_bias",
       [](SampleParams& p) {
         p.logit_bias = {{-1, 0.0f}};
       }},
      {"sampling.logit_bias",
       [](SampleParams& p) {
         p.logit_bias = {{1, kNan}};
       }},
      {"sampling.logit_bias",
       [](SampleParams& p) {
         p.logit_bias = {{1, 101.0f}};
       }},
      {"sampling.logit_bias",
       [](SampleParams& p) {
         p.logit_bias = {{1, 1.0f}, {2, 1.0f}, {1, 2.0f}};
       }},
      {"sampling.allowed_token_ids",
       [](SampleParams& p) {
         p.allowed_tokens = {3, 10};
       }},
      {"sampling.allowed_token_ids", [](SampleParams& p) { p.allowed_tokens = {-1}; }},
      {"sampling.stop_token_ids", [](SampleParams& p) { p.enders = {10}; }},
  };
  for (size_t i = 0; i < rows.size(); ++i) {
    SampleParams params;
    rows[i].change(params);
    const absl::Status status = PrepareSampleParams(kVocab, &params);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << i;
    EXPECT_EQ(GetErrorDetail(status).field, rows[i].field) << i;
    EXPECT_EQ(GetErrorDetail(status).reason, "INVALID_FIELD") << i;
  }
}

TEST(SamplingTest, StopStrings) {
  EXPECT_TRUE(CheckStopStrings({}).ok());
  EXPECT_TRUE(CheckStopStrings({"\n", "\xC3\xA9", std::string(256, 'x')}).ok());
  EXPECT_TRUE(CheckStopStrings(std::vector<std::string>(16, "x")).ok());
  for (const std::vector<std::string>& wrong : {std::vector<std::string>{"a", ""},
                                                {std::string(257, 'x')},
                                                {"\xC3"},
                                                std::vector<std::string>(17, "x")}) {
    const absl::Status status = CheckStopStrings(wrong);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(GetErrorDetail(status).field, "sampling.stop");
  }
}

}  // namespace
}  // namespace sessa
