#include "server/request_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "runtime/base/errors.h"

namespace sessa {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

RequestLimits Limits() {
  RequestLimits limits;
  limits.vocab = 100;
  limits.max_context = 50;
  limits.max_token_bytes = 4;
  limits.has_tokenizer = true;
  limits.eos_token = 2;
  return limits;
}

v1::GenerateRequest Base() {
  v1::GenerateRequest request;
  request.set_text("hello");
  return request;
}

absl::StatusOr<std::unique_ptr<TurnRequest>> Parse(const v1::GenerateRequest& request) {
  return ParseGenerate(request, Limits(), 42, "fresh");
}

TEST(ParseGenerateTest, UnsetMeansTheDefaults) {
  const auto turn = Parse(Base());
  ASSERT_TRUE(turn.ok()) << turn.status();
  const TurnRequest& t = **turn;
  EXPECT_EQ(std::get<std::string>(t.prompt), "hello");
  EXPECT_EQ(t.request_id, "fresh");
  EXPECT_EQ(t.sampling.seed, 42);
  EXPECT_EQ(t.max_tokens, 256);
  EXPECT_EQ(t.n, 1);
  EXPECT_FLOAT_EQ(t.sampling.temperature, 1.0f);
  EXPECT_EQ(t.sampling.top_k, 0);
  EXPECT_FLOAT_EQ(t.sampling.top_p, 1.0f);
  EXPECT_FLOAT_EQ(t.sampling.repetition_penalty, 1.0f);
  EXPECT_EQ(t.sampling.top_logprobs, -1);
  EXPECT_EQ(t.prompt_logprobs, -1);
  EXPECT_TRUE(t.skip_special_tokens);
  EXPECT_FALSE(t.keep_session);
  EXPECT_FALSE(t.expected_position.has_value());
  EXPECT_THAT(t.sampling.enders, ElementsAre(2));
}

// Rewritten text may shrink without bound: that it is too long shows only once it is tokens.
TEST(ParseGenerateTest, AnyTextMayFitWhereTokensHaveNoLongest) {
  RequestLimits limits = Limits();
  v1::GenerateRequest request;
  request.set_text(std::string(100'000, ' '));
  EXPECT_FALSE(ParseGenerate(request, limits, 42, "fresh").ok());
  limits.max_token_bytes = 0;
  EXPECT_TRUE(ParseGenerate(request, limits, 42, "fresh").ok());
}

TEST(ParseGenerateTest, TheCheckpointsDefaultsCount) {
  RequestLimits limits = Limits();
  limits.defaults.temperature = 0.5f;
  limits.defaults.top_k = 7;
  limits.defaults.top_p = 0.9f;
  limits.defaults.min_p = 0.1f;
  limits.defaults.repetition_penalty = 1.1f;
  limits.defaults.max_new_tokens = 512;
  auto turn = ParseGenerate(Base(), limits, 1, "id");
  ASSERT_TRUE(turn.ok());
  EXPECT_FLOAT_EQ((*turn)->sampling.temperature, 0.5f);
  EXPECT_EQ((*turn)->sampling.top_k, 7);
  EXPECT_FLOAT_EQ((*turn)->sampling.top_p, 0.9f);
  EXPECT_FLOAT_EQ((*turn)->sampling.min_p, 0.1f);
  EXPECT_FLOAT_EQ((*turn)->sampling.repetition_penalty, 1.1f);
  EXPECT_EQ((*turn)->max_tokens, 512);
  v1::GenerateRequest greedy = Base();
  greedy.mutable_sampling()->set_temperature(0);
  turn = ParseGenerate(greedy, limits, 1, "id");
  ASSERT_TRUE(turn.ok());
  EXPECT_FLOAT_EQ((*turn)->sampling.temperature, 0.0f) << "0 differs from unset";
  const v1::SamplingParams defaults = DefaultSampling(limits);
  EXPECT_FLOAT_EQ(defaults.temperature(), 0.5f);
  EXPECT_FLOAT_EQ(defaults.min_p(), 0.1f);
  EXPECT_FLOAT_EQ(defaults.repetition_penalty(), 1.1f);
  EXPECT_EQ(defaults.max_tokens(), 512);
}

TEST(ParseGenerateTest, TakesEveryField) {
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(3);
  request.mutable_token_ids()->add_ids(99);
  request.set_session_id("s");
  request.set_request_id("r");
  request.set_priority(-3);
  request.set_expected_position(0);
  v1::SamplingParams& s = *request.mutable_sampling();
  s.set_max_tokens(9);
  s.set_min_tokens(2);
  s.set_top_k(5);
  s.set_min_p(0.25f);
  s.set_repetition_penalty(1.5f);
  s.set_presence_penalty(-2);
  s.set_frequency_penalty(3);
  s.set_seed(0);
  s.add_stop("\n");
  s.add_stop_token_ids(9);
  s.add_stop_token_ids(4);
  s.add_stop_token_ids(9);
  s.set_ignore_eos(true);
  (*s.mutable_logit_bias())[8] = -100;
  (*s.mutable_logit_bias())[1] = 0.5f;
  s.add_allowed_token_ids(7);
  s.add_allowed_token_ids(5);
  s.set_logprobs(0);
  s.set_prompt_logprobs(20);
  s.set_include_stop(true);
  s.set_skip_special_tokens(false);
  const auto turn = Parse(request);
  ASSERT_TRUE(turn.ok()) << turn.status();
  const TurnRequest& t = **turn;
  EXPECT_THAT(std::get<std::vector<int32_t>>(t.prompt), ElementsAre(3, 99));
  EXPECT_EQ(t.session_id, "s");
  EXPECT_EQ(t.request_id, "r");
  EXPECT_EQ(t.priority, -3);
  EXPECT_EQ(t.expected_position, 0);
  EXPECT_EQ(t.max_tokens, 9);
  EXPECT_EQ(t.sampling.min_tokens, 2);
  EXPECT_EQ(t.sampling.top_k, 5);
  EXPECT_FLOAT_EQ(t.sampling.min_p, 0.25f);
  EXPECT_EQ(t.sampling.seed, 0);
  EXPECT_THAT(t.stop, ElementsAre("\n"));
  EXPECT_THAT(t.sampling.enders, ElementsAre(4, 9)) << "without EOS";
  EXPECT_THAT(t.sampling.logit_bias, ElementsAre(Pair(1, 0.5f), Pair(8, -100.0f)));
  EXPECT_THAT(t.sampling.allowed_tokens, ElementsAre(5, 7));
  EXPECT_EQ(t.sampling.top_logprobs, 0);
  EXPECT_EQ(t.prompt_logprobs, 20);
  EXPECT_TRUE(t.include_stop);
  EXPECT_FALSE(t.skip_special_tokens);
}

// A valid request with one thing changed, and the field that the refusal must name.
struct Violation {
  const char* name;
  const char* field;
  std::function<void(v1::GenerateRequest*)> change;
  const char* reason = "INVALID_FIELD";
};

class ViolationTest : public testing::TestWithParam<Violation> {};

TEST_P(ViolationTest, IsRefusedNamingTheField) {
  v1::GenerateRequest request = Base();
  GetParam().change(&request);
  const absl::Status status = Parse(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_EQ(GetErrorDetail(status).reason, GetParam().reason);
  EXPECT_EQ(GetErrorDetail(status).field, GetParam().field);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().field));
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

template <class Set>
std::function<void(v1::GenerateRequest*)> Sampling(Set set) {
  return [set](v1::GenerateRequest* request) { set(request->mutable_sampling()); };
}

INSTANTIATE_TEST_SUITE_P(
    Fields, ViolationTest,
    testing::Values(
        Violation{"NoPrompt", "prompt", [](auto* r) { r->clear_text(); }},
        Violation{"EmptyIds", "prompt", [](auto* r) { r->mutable_token_ids(); }},
        Violation{"LongText", "text", [](auto* r) { r->set_text(std::string(201, 'a')); }, "PROMPT_TOO_LONG"},
        Violation{"ManyIds", "token_ids.ids",
                  [](auto* r) {
                    for (int i = 0; i < 51; ++i) r->mutable_token_ids()->add_ids(1);
                  },
                  "PROMPT_TOO_LONG"},
        Violation{"NegativeId", "token_ids.ids", [](auto* r) { r->mutable_token_ids()->add_ids(-1); }},
        Violation{"LargeId", "token_ids.ids", [](auto* r) { r->mutable_token_ids()->add_ids(100); }},
        Violation{"LongRequestId", "request_id", [](auto* r) { r->set_request_id(std::string(129, 'a')); }},
        Violation{"ControlInRequestId", "request_id", [](auto* r) { r->set_request_id("a\nb"); }},
        Violation{"ControlInSessionId", "session_id",
                  [](auto* r) { r->set_session_id(std::string("a\0b", 3)); }},
        Violation{"LongSessionId", "session_id", [](auto* r) { r->set_session_id(std::string(129, 'a')); }},
        Violation{"NegativePosition", "expected_position", [](auto* r) { r->set_expected_position(-1); }},
        Violation{"UnknownDisconnect", "on_disconnect",
                  [](auto* r) { r->set_on_disconnect(static_cast<v1::OnDisconnect>(9)); }},
        Violation{"MaxTokens", "sampling.max_tokens", Sampling([](auto* s) { s->set_max_tokens(-1); })},
        Violation{"MinTokens", "sampling.min_tokens", Sampling([](auto* s) { s->set_min_tokens(-1); })},
        Violation{"MinAboveMax", "sampling.min_tokens", Sampling([](auto* s) { s->set_min_tokens(257); })},
        Violation{"ColdTemperature", "sampling.temperature", Sampling([](auto* s) { s->set_temperature(-0.1f); })},
        Violation{"HotTemperature", "sampling.temperature", Sampling([](auto* s) { s->set_temperature(101); })},
        Violation{"NanTemperature", "sampling.temperature", Sampling([](auto* s) { s->set_temperature(kNan); })},
        Violation{"TopK", "sampling.top_k", Sampling([](auto* s) { s->set_top_k(-1); })},
        Violation{"ZeroTopP", "sampling.top_p", Sampling([](auto* s) { s->set_top_p(0); })},
        Violation{"LargeTopP", "sampling.top_p", Sampling([](auto* s) { s->set_top_p(1.01f); })},
        Violation{"NanTopP", "sampling.top_p", Sampling([](auto* s) { s->set_top_p(kNan); })},
        Violation{"MinP", "sampling.min_p", Sampling([](auto* s) { s->set_min_p(1.5f); })},
        Violation{"ZeroRepetition", "sampling.repetition_penalty",
                  Sampling([](auto* s) { s->set_repetition_penalty(0); })},
        Violation{"InfiniteRepetition", "sampling.repetition_penalty",
                  Sampling([](auto* s) { s->set_repetition_penalty(kInf); })},
        Violation{"Presence", "sampling.presence_penalty", Sampling([](auto* s) { s->set_presence_penalty(kNan); })},
        Violation{"Frequency", "sampling.frequency_penalty", Sampling([](auto* s) { s->set_frequency_penalty(-101); })},
        Violation{"EmptyStop", "sampling.stop", Sampling([](auto* s) { s->add_stop(""); })},
        Violation{"LongStop", "sampling.stop", Sampling([](auto* s) { s->add_stop(std::string(257, 'a')); })},
        Violation{"ManyStops", "sampling.stop", Sampling([](auto* s) {
                    for (int i = 0; i < 17; ++i) s->add_stop("a");
                  })},
        Violation{"StopToken", "sampling.stop_token_ids", Sampling([](auto* s) { s->add_stop_token_ids(100); })},
        Violation{"ManyStopTokens", "sampling.stop_token_ids", Sampling([](auto* s) {
                    for (int i = 0; i <= kMaxStopTokens; ++i) s->add_stop_token_ids(1);
                  })},
        Violation{"BiasToken", "sampling.logit_bias", Sampling([](auto* s) { (*s->mutable_logit_bias())[-5] = 1; })},
        Violation{"BiasNan", "sampling.logit_bias", Sampling([](auto* s) { (*s->mutable_logit_bias())[5] = kNan; })},
        Violation{"BiasLarge", "sampling.logit_bias", Sampling([](auto* s) { (*s->mutable_logit_bias())[5] = 101; })},
        Violation{"ManyBiases", "sampling.logit_bias", Sampling([](auto* s) {
                    for (int i = 0; i <= kMaxLogitBias; ++i) (*s->mutable_logit_bias())[i] = 1;
                  })},
        Violation{"AllowedToken", "sampling.allowed_token_ids",
                  Sampling([](auto* s) { s->add_allowed_token_ids(100); })},
        Violation{"ManyAllowed", "sampling.allowed_token_ids", Sampling([](auto* s) {
                    for (int i = 0; i < 101; ++i) s->add_allowed_token_ids(1);
                  })},
        Violation{"NegativeLogprobs", "sampling.logprobs", Sampling([](auto* s) { s->set_logprobs(-1); })},
        Violation{"ManyLogprobs", "sampling.logprobs", Sampling([](auto* s) { s->set_logprobs(21); })},
        Violation{"PromptLogprobs", "sampling.prompt_logprobs", Sampling([](auto* s) { s->set_prompt_logprobs(21); })},
        Violation{"NegativeN", "sampling.n", Sampling([](auto* s) { s->set_n(-1); })},
        Violation{"ManyN", "sampling.n", Sampling([](auto* s) { s->set_n(17); })},
        Violation{"NWithKept", "sampling.n",
                  [](auto* r) {
                    r->set_keep_session(true);
                    r->mutable_sampling()->set_n(2);
                  }},
        Violation{"NWithSession", "sampling.n",
                  [](auto* r) {
                    r->set_session_id("s");
                    r->mutable_sampling()->set_n(2);
                  }}),
    [](const auto& info) { return info.param.name; });

TEST(ParseGenerateTest, AnEmptyPromptContinuesASession) {
  v1::GenerateRequest request;
  request.set_session_id("s");
  const auto turn = Parse(request);
  ASSERT_TRUE(turn.ok()) << turn.status();
  EXPECT_EQ(std::get<std::string>((*turn)->prompt), "");
}

TEST(ParseGenerateTest, DetachIsNotBuiltYet) {
  v1::GenerateRequest request = Base();
  request.set_on_disconnect(v1::ON_DISCONNECT_DETACH);
  const absl::Status status = Parse(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("DETACH"));
}

TEST(ParseGenerateTest, TextNeedsATokenizer) {
  RequestLimits limits = Limits();
  limits.has_tokenizer = false;
  const absl::Status text = ParseGenerate(Base(), limits, 1, "id").status();
  EXPECT_EQ(text.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(GetErrorDetail(text).reason, "NO_TOKENIZER");
  v1::GenerateRequest ids;
  ids.mutable_token_ids()->add_ids(1);
  EXPECT_TRUE(ParseGenerate(ids, limits, 1, "id").ok());
  ids.mutable_sampling()->add_stop("a");
  EXPECT_EQ(GetErrorDetail(ParseGenerate(ids, limits, 1, "id").status()).field, "sampling.stop");
}

}  // namespace
}  // namespace sessa
