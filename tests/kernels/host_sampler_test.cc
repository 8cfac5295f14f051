// The host sampler: each parameter by itself, all together against a plain oracle, and the draws'
// distribution.
#include "kernels/host_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/philox.h"

namespace sessa {
namespace {

using testing::ElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

OutputResult Sample(const std::vector<float>& logits, const SampleParams& params, int64_t position = 0,
                    const TokenCounts* counts = nullptr, int32_t sampled_before = 0) {
  SampleScratch scratch;
  OutputRow row;
  row.position = position;
  row.params = &params;
  row.counts = counts;
  row.sampled_before = sampled_before;
  return SampleRow(logits, row, scratch);
}

// Every token that is drawn at some position.
std::set<int32_t> Drawn(const std::vector<float>& logits, const SampleParams& params,
                        const TokenCounts* counts = nullptr, int32_t sampled_before = 0) {
  std::set<int32_t> drawn;
  for (int position = 0; position < 2000; ++position) {
    drawn.insert(Sample(logits, params, position, counts, sampled_before).token);
  }
  return drawn;
}

std::vector<float> RandomLogits(size_t n, uint32_t seed, float scale) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> logits(n);
  for (float& l : logits) l = normal(random);
  return logits;
}

// --- Philox ---

// Known answers of the authors' library, Random123 (kat_vectors).
TEST(PhiloxTest, KnownAnswers) {
  const auto words = [](const PhiloxBlock& b) { return std::vector<uint32_t>(b.word, b.word + 4); };
  EXPECT_THAT(words(Philox4x32({{0, 0, 0, 0}}, 0, 0)),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  const uint32_t f = 0xffffffff;
  EXPECT_THAT(words(Philox4x32({{f, f, f, f}}, f, f)),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(words(Philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0)),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(PhiloxTest, UniformDependsOnEachOfItsArguments) {
  std::set<double> seen;
  for (const uint64_t seed : {0ull, 1ull, 1ull << 32}) {
    for (const uint32_t sample : {0u, 1u}) {
      for (const int64_t position : {0ll, 1ll, 1ll << 32}) {
        const double u = DrawUniform(seed, sample, position);
        EXPECT_GE(u, 0.0);
        EXPECT_LT(u, 1.0);
        EXPECT_TRUE(seen.insert(u).second);
      }
    }
  }
}

// --- each parameter ---

TEST(HostSamplerTest, GreedyTakesTheLowestIdOfEquals) {
  SampleParams greedy{.temperature = 0.0f};
  EXPECT_EQ(Sample({1, 3, 3, 2}, greedy).token, 1);
  EXPECT_EQ(Sample({-0.0f, 0.0f, -1}, greedy).token, 0);
  EXPECT_EQ(Sample({-kInf, -kInf, -7}, greedy).token, 2);
  std::vector<float> many(1000, 0.5f);
  EXPECT_EQ(Sample(many, greedy).token, 0);
  many[999] = 0.75f;
  EXPECT_EQ(Sample(many, greedy).token, 999);
}

TEST(HostSamplerTest, OneTokenVocabulary) {
  EXPECT_EQ(Sample({-5}, SampleParams{}).token, 0);
  EXPECT_EQ(Sample({-5}, SampleParams{.temperature = 0.0f}).token, 0);
}

TEST(HostSamplerTest, NotFinite) {
  for (const float bad : {kNan, kInf, -kNan}) {
    for (const size_t at : {0, 3, 16, 33}) {
      std::vector<float> logits(34, 1.0f);
      logits[at] = bad;
      EXPECT_FALSE(Sample(logits, SampleParams{}).finite) << bad << " at " << at;
      EXPECT_FALSE(Sample(logits, SampleParams{.temperature = 0.0f}).finite) << bad << " at " << at;
      SampleScratch scratch;
      OutputRow score;
      score.target = 1;
      EXPECT_FALSE(SampleRow(logits, score, scratch).finite) << bad << " at " << at;
    }
  }
  EXPECT_TRUE(Sample({-kInf, 0}, SampleParams{}).finite);
  EXPECT_FALSE(Sample({-kInf, -kInf}, SampleParams{}).finite);
}

TEST(HostSamplerTest, NothingLeftToDraw) {
  SampleParams params{.allowed_tokens = {1}, .min_tokens = 1, .enders = {1}};
  EXPECT_FALSE(Sample({0, 0, 0}, params).finite);
}

TEST(HostSamplerTest, AllowedTokens) {
  SampleParams params{.temperature = 2.0f, .allowed_tokens = {1, 4}};
  EXPECT_THAT(Drawn({9, 0, 9, 9, 0.5, 9}, params), ElementsAre(1, 4));
  params.temperature = 0.0f;
  EXPECT_THAT(Drawn({9, 0, 9, 9, 0.5, 9}, params), ElementsAre(4));
}

TEST(HostSamplerTest, LogitBias) {
  SampleParams params{.temperature = 0.0f, .logit_bias = {{0, 1.5f}, {2, -100.0f}}};
  EXPECT_EQ(Sample({1, 2, 3}, params).token, 0);
  params.allowed_tokens = {1, 2};  // comes first: a bias does not bring back what is not allowed
  EXPECT_EQ(Sample({1, 2, 3}, params).token, 1);
}

TEST(HostSamplerTest, MinTokensBansEnders) {
  SampleParams params{.temperature = 0.0f, .min_tokens = 2, .enders = {2}};
  EXPECT_EQ(Sample({1, 2, 3}, params, 0, nullptr, 0).token, 1);
  EXPECT_EQ(Sample({1, 2, 3}, params, 0, nullptr, 1).token, 1);
  EXPECT_EQ(Sample({1, 2, 3}, params, 0, nullptr, 2).token, 2);
  params.logit_bias = {{2, 100.0f}};
  EXPECT_EQ(Sample({1, 2, 3}, params, 0, nullptr, 0).token, 1);
}

TEST(HostSamplerTest, RepetitionPenalty) {
  SampleParams params{.temperature = 0.0f, .repetition_penalty = 2.0f};
  const TokenCounts counts = {{0, 1}, {2, 5}};
  EXPECT_EQ(Sample({3, 1.6f, -1}, params, 0, &counts).token, 1);       // 1.5, 1.6, -2
  EXPECT_EQ(Sample({-1, -1.9f, -0.9f}, params, 0, &counts).token, 2);  // -2, -1.9, -1.8
  params.repetition_penalty = 0.5f;
  EXPECT_EQ(Sample({1, 1.9f, -1}, params, 0, &counts).token, 0);  // 2, 1.9, -0.5
}

TEST(HostSamplerTest, PresenceAndFrequencyPenalty) {
  const TokenCounts counts = {{0, 1}, {1, 3}, {3, 0}};
  SampleParams presence{.temperature = 0.0f, .presence_penalty = 1.0f};
  EXPECT_EQ(Sample({3, 4, 2.9f, 0}, presence, 0, &counts).token, 1);  // 2, 3, 2.9
  SampleParams frequency{.temperature = 0.0f, .frequency_penalty = 1.0f};
  EXPECT_EQ(Sample({3, 4, 1.9f, 0}, frequency, 0, &counts).token, 0);  // 2, 1, 1.9
  SampleParams both{.temperature = 0.0f, .presence_penalty = 1.0f, .frequency_penalty = 1.0f};
  EXPECT_EQ(Sample({3, 4, 1.9f, 1.95f}, both, 0, &counts).token, 3);  // 1, 0, 1.9, 1.95
  SampleParams reward{.temperature = 0.0f, .frequency_penalty = -1.0f};
  EXPECT_EQ(Sample({3, 3, 5, 0}, reward, 0, &counts).token, 1);  // 4, 6, 5
}

// What a client may ask for makes no row "not finite": sums and quotients beyond float end at its border.
TEST(HostSamplerTest, NoPenaltyOverflows) {
  constexpr float kMost = std::numeric_limits<float>::max(), kTiny = 1e-40f;
  const TokenCounts counts = {{0, 1}, {1, 2'000'000'000}, {2, 1}};
  for (const float temperature : {0.0f, kTiny, 1.0f, 100.0f}) {
    for (const float repetition : {kTiny, 1.0f, 100.0f}) {
      for (const float other : {-100.0f, 0.0f, 100.0f}) {
        for (const float largest : {1.0f, kMost}) {
          SampleParams params;
          params.temperature = temperature;
          params.repetition_penalty = repetition;
          params.frequency_penalty = params.presence_penalty = other;
          params.logit_bias = {{0, other}, {3, -other}};
          const std::vector<float> logits = {largest, -largest, -kInf, 0.5f * largest};
          const OutputResult result = Sample(logits, params, 0, &counts);
          EXPECT_TRUE(result.finite) << temperature << " " << repetition << " " << other << " " << largest;
          EXPECT_THAT(result.token, testing::AnyOf(0, 1, 3));
        }
      }
    }
  }
}

TEST(HostSamplerTest, PenaltiesLeaveBannedTokensBanned) {
  const TokenCounts counts = {{0, 1}, {1, 1}};
  SampleParams params;
  params.allowed_tokens = {1};
  params.repetition_penalty = 100.0f;  // beyond float's range for token 1
  params.frequency_penalty = -100.0f;
  EXPECT_EQ(Drawn({0.0f, -std::numeric_limits<float>::max(), 5.0f}, params, &counts), std::set<int32_t>{1});
}

TEST(HostSamplerTest, TopK) {
  SampleParams params{.temperature = 5.0f, .top_k = 2};
  EXPECT_THAT(Drawn({1, 3, 2, 0}, params), ElementsAre(1, 2));
  EXPECT_THAT(Drawn({1, 3, 2, 2}, params), ElementsAre(1, 2, 3));  // equals of the last one stay
  params.top_k = 1;
  EXPECT_THAT(Drawn({1, 3, 2, 0}, params), ElementsAre(1));
  params.top_k = 4;
  EXPECT_THAT(Drawn({1, 3, 2, 0}, params), ElementsAre(0, 1, 2, 3));
  params.top_k = 1000;
  EXPECT_THAT(Drawn({1, 3, 2, 0}, params), ElementsAre(0, 1, 2, 3));
  params.top_k = 3;
  params.allowed_tokens = {0, 1};  // fewer left than k
  EXPECT_THAT(Drawn({1, 3, 2, 0}, params), ElementsAre(0, 1));
}

TEST(HostSamplerTest, TopP) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.15f), std::log(0.25f)};
  const auto drawn = [&](float top_p) { return Drawn(logits, SampleParams{.top_p = top_p}); };
  EXPECT_THAT(drawn(1e-6f), ElementsAre(1));
  EXPECT_THAT(drawn(0.49f), ElementsAre(1));
  EXPECT_THAT(drawn(0.51f), ElementsAre(1, 3));
  EXPECT_THAT(drawn(0.74f), ElementsAre(1, 3));
  EXPECT_THAT(drawn(0.76f), ElementsAre(1, 2, 3));
  EXPECT_THAT(drawn(0.91f), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Drawn({0, 0, 0, -9}, SampleParams{.top_p = 0.1f}),
              ElementsAre(0, 1, 2));  // equals stay together
  // Of what top_k left: 0.5 / 0.75 reaches 0.6 by itself.
  EXPECT_THAT(Drawn(logits, SampleParams{.top_k = 2, .top_p = 0.6f}), ElementsAre(1));
}

TEST(HostSamplerTest, MinP) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.15f), std::log(0.25f)};
  const auto drawn = [&](float min_p) { return Drawn(logits, SampleParams{.min_p = min_p}); };
  EXPECT_THAT(drawn(0.19f), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(drawn(0.21f), ElementsAre(1, 2, 3));
  EXPECT_THAT(drawn(0.45f), ElementsAre(1, 3));
  EXPECT_THAT(drawn(1.0f), ElementsAre(1));
}

TEST(HostSamplerTest, ExtremeTemperatures) {
  EXPECT_THAT(Drawn({1, 1.0001f, 0}, SampleParams{.temperature = 1e-30f}), ElementsAre(1));
  EXPECT_THAT(Drawn({3e38f, -3e38f, 0}, SampleParams{.temperature = 1.0f}), ElementsAre(0));
  EXPECT_THAT(Drawn({5, -5, 0}, SampleParams{.temperature = 100.0f}), ElementsAre(0, 1, 2));
}

TEST(HostSamplerTest, LogprobsAreOfTheRawLogits) {
  const std::vector<float> logits = {std::log(0.1f) + 7, std::log(0.5f) + 7, std::log(0.15f) + 7,
                                     std::log(0.25f) + 7};
  SampleParams params{.temperature = 0.0f, .logit_bias = {{0, 50.0f}}, .top_logprobs = 0};
  OutputResult result = Sample(logits, params);
  EXPECT_EQ(result.token, 0);
  EXPECT_NEAR(result.logprob, std::log(0.1), 1e-5);
  EXPECT_TRUE(result.top.empty());
  params.top_logprobs = 3;
  result = Sample(logits, params);
  ASSERT_EQ(result.top.size(), 3u);
  EXPECT_EQ(result.top[0].token, 1);
  EXPECT_EQ(result.top[1].token, 3);
  EXPECT_EQ(result.top[2].token, 2);
  EXPECT_NEAR(result.top[1].logprob, std::log(0.25), 1e-5);
  params.top_logprobs = 20;  // more than there are
  EXPECT_EQ(Sample(logits, params).top.size(), 4u);
}

TEST(HostSamplerTest, TopLogprobsOrderEqualsById) {
  SampleParams params{.temperature = 0.0f, .top_logprobs = 3};
  const OutputResult result = Sample({1, 2, 1, 2, 1, -kInf}, params);
  ASSERT_EQ(result.top.size(), 3u);
  EXPECT_EQ(result.top[0].token, 1);
  EXPECT_EQ(result.top[1].token, 3);
  EXPECT_EQ(result.top[2].token, 0);
}

TEST(HostSamplerTest, Target) {
  SampleScratch scratch;
  OutputRow row;
  row.target = 2;  // no params: nothing but the token's own
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.4f)};
  OutputResult result = SampleRow(logits, row, scratch);
  EXPECT_EQ(result.token, 2);
  EXPECT_NEAR(result.logprob, std::log(0.4), 1e-6);
  EXPECT_TRUE(result.top.empty());
  const SampleParams params{.temperature = 0.0f, .allowed_tokens = {0}, .top_logprobs = 1};
  row.params = &params;  // a score is not sampling: what is not allowed is scored, too
  result = SampleRow(logits, row, scratch);
  EXPECT_EQ(result.token, 2);
  EXPECT_NEAR(result.logprob, std::log(0.4), 1e-6);
  ASSERT_EQ(result.top.size(), 1u);
  EXPECT_EQ(result.top[0].token, 1);
}

TEST(HostSamplerTest, LogprobsSumToOne) {
  const std::vector<float> logits = RandomLogits(32000, 5, 3.0f);
  SampleScratch scratch;
  OutputRow row;
  double sum = 0.0;
  for (row.target = 0; row.target < 32000; row.target += 16)
    sum += std::exp(double{SampleRow(logits, row, scratch).logprob});
  double expected = 0.0, all = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    all += std::exp(double{logits[i]});
    if (i % 16 == 0) expected += std::exp(double{logits[i]});
  }
  // exp within 2 ulp (2.4e-7), the logarithm rounded to float at |l| < 32 (2e-6).
  EXPECT_NEAR(sum / (expected / all), 1.0, 3e-6);
}

// --- the draw ---

TEST(HostSamplerTest, DrawDependsOnSeedSampleAndPositionOnly) {
  const std::vector<float> logits = RandomLogits(1000, 1, 1.0f);
  SampleParams params{.top_k = 500, .top_p = 0.99f, .seed = 7};
  std::vector<int32_t> alone;
  for (int position = 0; position < 50; ++position) alone.push_back(Sample(logits, params, position).token);
  SampleScratch shared;  // left over from other rows, in another order, at other rows of a batch
  for (int position = 49; position >= 0; --position) {
    OutputRow other;
    other.target = 3;
    SampleRow(RandomLogits(2000, position, 1.0f), other, shared);
    OutputRow row;
    row.row = position * 3;
    row.slot = 5;
    row.position = position;
    row.params = &params;
    EXPECT_EQ(SampleRow(logits, row, shared).token, alone[position]);
  }
  const auto different = [&](SampleParams changed) {
    int count = 0;
    for (int position = 0; position < 50; ++position)
      count += Sample(logits, changed, position).token != alone[position];
    return count;
  };
  EXPECT_EQ(different(params), 0);
  SampleParams seed = params, sample = params;
  seed.seed = 8;
  sample.sample_index = 1;
  EXPECT_GT(different(seed), 40);
  EXPECT_GT(different(sample), 40);
}

// N draws: by Bernstein's inequality a token of probability p is drawn more than t times off N p with
// probability below 2 exp(-t^2 / (2 (N p (1-p) + t/3))); t is chosen so that this is 1e-12 for each of the
// tokens.
TEST(HostSamplerTest, Frequencies) {
  const int kDraws = 200'000;
  const std::vector<float> logits = RandomLogits(40, 3, 1.5f);
  const SampleParams params{.temperature = 0.8f, .seed = 11};
  std::vector<double> p(logits.size());
  double sum = 0.0;
  for (size_t i = 0; i < p.size(); ++i) sum += p[i] = std::exp(logits[i] / 0.8);
  std::vector<int> count(logits.size());
  SampleScratch scratch;
  OutputRow row;
  row.params = &params;
  for (row.position = 0; row.position < kDraws; ++row.position)
    ++count[SampleRow(logits, row, scratch).token];
  for (size_t i = 0; i < p.size(); ++i) {
    const double mean = kDraws * p[i] / sum, variance = mean * (1 - p[i] / sum), log = std::log(2e12);
    const double t = log / 3 + std::sqrt(log * log / 9 + 2 * variance * log);
    EXPECT_NEAR(count[i], mean, t) << i;
  }
}

// --- all together, against an oracle that sorts ---

struct Oracle {
  std::vector<double> p;  // renormalised, 0 where not kept
};

// `gray`: a token whose rank or probability is within rounding of a limit decides, so rows cannot be
// compared.
Oracle Process(const std::vector<float>& raw, const SampleParams& params, const TokenCounts& counts,
               int32_t before, bool* gray) {
  const size_t n = raw.size();
  std::vector<float> l = raw;
  for (size_t i = 0; i < n; ++i) {
    const int32_t token = static_cast<int32_t>(i);
    const auto& allowed = params.allowed_tokens;
    if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), token) == allowed.end()) l[i] = -kInf;
    for (const auto& [biased, bias] : params.logit_bias) l[i] += biased == token ? bias : 0;
    if (before < params.min_tokens && std::count(params.enders.begin(), params.enders.end(), token))
      l[i] = -kInf;
    if (const auto it = counts.find(token); it != counts.end()) {
      l[i] = l[i] > 0 ? l[i] / params.repetition_penalty : l[i] * params.repetition_penalty;
      l[i] -= params.frequency_penalty * static_cast<float>(it->second) + params.presence_penalty;
    }
  }
  std::vector<int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return l[a] > l[b]; });
  std::vector<double> p(n);
  for (size_t i = 0; i < n; ++i) p[i] = std::exp((double{l[i]} - l[order[0]]) / params.temperature);

  size_t keep = params.top_k > 0 ? std::min<size_t>(params.top_k, n) : n;
  while (keep < n && l[order[keep]] == l[order[keep - 1]]) ++keep;
  double sum = 0.0, running = 0.0;
  for (size_t r = 0; r < keep; ++r) sum += p[order[r]];
  *gray = false;
  if (params.top_p < 1) {
    size_t kept = 0;
    while (kept < keep && (kept == 0 || running < params.top_p * sum)) running += p[order[kept++]];
    while (kept < keep && l[order[kept]] == l[order[kept - 1]]) running += p[order[kept++]];
    const double without = running - p[order[kept - 1]];
    if (std::abs(running / sum - params.top_p) < 1e-5 || std::abs(without / sum - params.top_p) < 1e-5)
      *gray = true;
    keep = kept;
  }
  Oracle oracle{std::vector<double>(n, 0.0)};
  double total = 0.0;
  for (size_t r = 0; r < keep; ++r) {
    const double q = p[order[r]];
    if (params.min_p > 0 && std::abs(q / params.min_p - 1) < 1e-5) *gray = true;
    if (q >= params.min_p) total += oracle.p[order[r]] = q;
  }
  for (double& q : oracle.p) q /= total;
  return oracle;
}

TEST(HostSamplerTest, AgreesWithAnOracleForRandomParameters) {
  std::mt19937 random(2024);
  const auto uniform = [&](double low, double high) { return low + (high - low) * random() / 4294967296.0; };
  const auto chance = [&](double p) { return uniform(0, 1) < p; };
  int compared = 0;
  SampleScratch scratch;
  for (int trial = 0; trial < 3000; ++trial) {
    const size_t n = 1 + random() % (trial % 10 == 0 ? 3000 : 60);
    std::vector<float> logits = RandomLogits(n, random(), static_cast<float>(uniform(0.1, 8)));
    if (chance(0.3)) {  // many equals
      for (float& l : logits) l = std::round(l);
    }
    SampleParams params;
    params.temperature = static_cast<float>(uniform(0.1, 2.5));
    params.seed = random();
    if (chance(0.5)) params.top_k = 1 + random() % 50;
    if (chance(0.5)) params.top_p = static_cast<float>(uniform(0.01, 1));
    if (chance(0.3)) params.min_p = static_cast<float>(uniform(0, 0.5));
    if (chance(0.3)) params.repetition_penalty = static_cast<float>(uniform(0.5, 2));
    if (chance(0.3)) params.presence_penalty = static_cast<float>(uniform(-2, 2));
    if (chance(0.3)) params.frequency_penalty = static_cast<float>(uniform(-2, 2));
    if (chance(0.3)) params.logit_bias = {{random() % n, static_cast<float>(uniform(-5, 5))}};
    if (chance(0.2)) {
      std::set<int32_t> allowed;
      for (int i = 0; i < 5; ++i) allowed.insert(random() % n);
      params.allowed_tokens.assign(allowed.begin(), allowed.end());
    }
    if (chance(0.2) && n > 10) {
      params.min_tokens = 3;
      params.enders = {static_cast<int32_t>(random() % n)};
    }
    TokenCounts counts;
    for (int i = 0; i < 10; ++i) ++counts[random() % n];
    OutputRow row;
    row.position = random() % 100000;
    row.sampled_before = random() % 5;
    row.params = &params;
    row.counts = &counts;
    const bool only_ender = params.allowed_tokens.size() == 1 && params.allowed_tokens == params.enders;
    if (only_ender) continue;

    bool gray = false;
    const Oracle oracle = Process(logits, params, counts, row.sampled_before, &gray);
    if (gray) continue;
    ++compared;
    const OutputResult result = SampleRow(logits, row, scratch);
    ASSERT_TRUE(result.finite) << trial;
    // u falls into the token's share of the running sum, up to the rounding of float32 weights.
    const double u = DrawUniform(params.seed, 0, row.position);
    double below = 0.0;
    for (int32_t i = 0; i < result.token; ++i) below += oracle.p[i];
    ASSERT_GT(oracle.p[result.token], 0.0) << trial;
    ASSERT_GE(u, below - 1e-5) << trial;
    ASSERT_LE(u, below + oracle.p[result.token] + 1e-5) << trial;
  }
  EXPECT_GT(compared, 2500);
}

}  // namespace
}  // namespace sessa
