#include "loadtest/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "loadtest/plot.h"
#include "loadtest/runner.h"

namespace sessa {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

Result MakeResult() {
  Result r;
  r.scenario_name = "a <b> & c";
  r.scenario = "closed loop, 8 users";
  r.model.set_name("fake");
  r.measured_seconds = 10;
  r.warm_up_seconds = 1;
  r.turns = 20;
  r.generated_tokens = 1000;
  r.prompt_tokens = 400;
  for (int i = 1; i <= 100; ++i) r.gap.Add(i * 1e-3);
  r.outcomes = {{"OK", 18}, {"RESOURCE_EXHAUSTED/QUEUE_FULL", 2}};
  r.failed_turns = 2;
  r.step_seconds = 1;
  r.steps.resize(11);
  r.steps[3].generated_tokens = 120;
  r.points = {{1, 0.01}, {2, 0.02}};
  r.client_cpu_seconds = 0.5;
  return r;
}

TEST(TextReport, TellsTheCostOfServingFromTheWorkOfTheModel) {
  Result result = MakeResult();
  ServerFigures& server = result.server_figures.emplace();
  server.seconds = 10;
  server.generated_tokens = 1000;
  server.cpu_seconds = 15;
  server.ops_cpu_seconds = 14.9;
  const std::string text = TextReport(result);
  EXPECT_THAT(text, HasSubstr("CPU 1.50 cores, 15000.0 us a generated token, 100.0 of them outside the ops"));
}

TEST(TextReport, HoldsRatesLatenciesAndErrors) {
  const std::string text = TextReport(MakeResult());
  EXPECT_THAT(text, HasSubstr("1000 (100/s)"));
  EXPECT_THAT(text, HasSubstr("RESOURCE_EXHAUSTED/QUEUE_FULL"));
  EXPECT_THAT(text, HasSubstr("0.05 cores, 500.0 us a generated token"));
  EXPECT_THAT(text, Not(HasSubstr("server  ")));
}

TEST(JsonReport, IsReadable) {
  const auto json = nlohmann::json::parse(JsonReport(MakeResult()));
  EXPECT_EQ(json["generated_tokens_per_second"], 100.0);
  EXPECT_EQ(json["latency_seconds"]["inter_token"]["count"], 100);
  EXPECT_NEAR(json["latency_seconds"]["inter_token"]["p99"].get<double>(), 0.099, 0.0003);
  EXPECT_EQ(json["outcomes"]["OK"], 18);
  EXPECT_EQ(json["series"][3]["generated_tokens"], 120);
  EXPECT_TRUE(json["server"].is_null());
}

TEST(HtmlReport, IsSelfContainedAndEscaped) {
  const std::string html = HtmlReport(MakeResult());
  EXPECT_THAT(html, HasSubstr("a &lt;b&gt; &amp; c"));
  EXPECT_THAT(html, Not(HasSubstr("<b> & c")));
  EXPECT_THAT(html, HasSubstr("Failed turns"));
  EXPECT_THAT(html, HasSubstr("prefers-color-scheme: dark"));
  for (const char* external : {"src=", "href=", "url(", "@import", "<script"}) {
    EXPECT_THAT(html, Not(HasSubstr(external)));
  }
  EXPECT_THAT(html, Not(HasSubstr("nan")));
  EXPECT_THAT(html, Not(HasSubstr("-0<")));
}

TEST(HtmlReport, OfAnEmptyRunHoldsNoNonsense) {
  const std::string html = HtmlReport(Result());
  EXPECT_THAT(html, Not(HasSubstr("nan")));
  EXPECT_THAT(html, Not(HasSubstr("inf")));
}

TEST(Ticks, AreRoundAndInside) {
  EXPECT_THAT(Ticks(0, 10, false), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(Ticks(0, 1, false),
              ElementsAre(0, 0.2, ::testing::DoubleEq(0.4), ::testing::DoubleEq(0.6), 0.8, 1));
  EXPECT_THAT(Ticks(0.0009, 1.2, true), ElementsAre(::testing::DoubleEq(0.001), 0.01, 0.1, 1));
  EXPECT_THAT(Ticks(5, 5, false), ElementsAre(5));
}

TEST(Ticks, LogarithmicRangesThatAreShortGetStepsBetween) {
  EXPECT_THAT(Ticks(1, 60, true), ElementsAre(1, 2, 5, 10, 20, 50));
}

TEST(TickLabel, HasUnits) {
  EXPECT_EQ(TickLabel(0.0002, PlotAxis::Kind::kSeconds), "200 us");
  EXPECT_EQ(TickLabel(0.05, PlotAxis::Kind::kSeconds), "50 ms");
  EXPECT_EQ(TickLabel(2, PlotAxis::Kind::kSeconds), "2 s");
  EXPECT_EQ(TickLabel(0.25, PlotAxis::Kind::kShare), "25 %");
  EXPECT_EQ(TickLabel(25000, PlotAxis::Kind::kCount), "25k");
}

Result::ServerPoint At(double at, uint64_t steps, int64_t cpu_seconds) {
  Result::ServerPoint point;
  point.at = at;
  point.status.mutable_totals()->set_steps(steps);
  point.status.mutable_process()->mutable_cpu_time()->set_seconds(cpu_seconds);
  return point;
}

TEST(ServerDifference, ComparesWhatLiesWithinTheMeasuredTime) {
  const auto figures = ServerDifference({At(0, 0, 1), At(2, 100, 2), At(5, 400, 6), At(9, 900, 9)}, 1, 8);
  ASSERT_TRUE(figures.has_value());
  EXPECT_EQ(figures->seconds, 3);
  EXPECT_EQ(figures->steps, 300u);
  EXPECT_EQ(figures->cpu_seconds, 4);
}

TEST(ServerDifference, NeedsTwo) {
  EXPECT_FALSE(ServerDifference({At(2, 100, 2)}, 1, 8).has_value());
  EXPECT_FALSE(ServerDifference({}, 1, 8).has_value());
}

}  // namespace
}  // namespace sessa
