// The rules of Plan, each by itself.
#include "scheduler/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace sessa {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

// A step of 64 rows and 8 residents over plenty of pages.
PlanInput Input() {
  PlanInput input;
  input.now = absl::FromUnixSeconds(1000);
  input.max_rows = 64;
  input.max_residents = 8;
  input.free_pages = 1000;
  input.service = {0, 0, 0};
  return input;
}

int32_t PagesFor(int64_t tokens) { return static_cast<int32_t>((tokens + 63) / 64); }

PlanSequence Resident(uint64_t arrival, int64_t computed, int64_t length) {
  PlanSequence s;
  s.arrival = arrival;
  s.resident = true;
  s.computed = computed;
  s.length = length;
  s.pages = s.own_pages = PagesFor(length - 1 > computed ? length : computed);
  return s;
}
PlanSequence Decoder(uint64_t arrival, int64_t length) { return Resident(arrival, length - 1, length); }
PlanSequence Waiting(uint64_t arrival, int64_t length) {
  PlanSequence s;
  s.arrival = arrival;
  s.length = length;
  return s;
}

StepPlan PlanOf(const PlanInput& input) {
  StepPlan plan;
  Plan(input, &plan);
  return plan;
}
std::vector<std::pair<int32_t, int32_t>> Work(const StepPlan& plan) {
  std::vector<std::pair<int32_t, int32_t>> work;
  for (const auto [sequence, rows] : plan.work) work.emplace_back(sequence, rows);
  return work;
}
using P = std::pair<int32_t, int32_t>;

TEST(PlanTest, NothingToDoIsAnEmptyPlan) { EXPECT_THAT(Work(PlanOf(Input())), IsEmpty()); }

TEST(PlanTest, EveryDecoderIsInTheStepAndPrefillGetsTheRest) {
  PlanInput input = Input();
  input.sequences = {Resident(1, 100, 3000), Decoder(2, 70), Decoder(3, 71), Decoder(4, 72)};
  EXPECT_THAT(Work(PlanOf(input)), ElementsAre(P{1, 1}, P{2, 1}, P{3, 1}, P{0, 61}));
}

TEST(PlanTest, PrefillBesideDecodesIsBounded) {
  PlanInput input = Input();
  input.max_prefill_rows = 20;
  input.sequences = {Resident(1, 100, 3000), Resident(2, 0, 3000)};
  EXPECT_THAT(Work(PlanOf(input)), ElementsAre(P{0, 64}));
  input.sequences.push_back(Decoder(3, 70));
  EXPECT_THAT(Work(PlanOf(input)), ElementsAre(P{2, 1}, P{0, 20}));
}

TEST(PlanTest, PrefillGoesOnEvenWhenEveryPlaceIsTaken) {
  PlanInput input = Input();
  input.max_rows = 8;
  for (uint64_t i = 0; i < 7; ++i) input.sequences.push_back(Decoder(i, 70));
  input.sequences.push_back(Resident(7, 0, 500));
  EXPECT_EQ(PlanOf(input).work.size(), 8);
}

TEST(PlanTest, ChunksOfSeveralPromptsShareAStep) {
  PlanInput input = Input();
  input.sequences = {Resident(1, 0, 30), Resident(2, 0, 20), Resident(3, 0, 100)};
  EXPECT_THAT(Work(PlanOf(input)), ElementsAre(P{0, 30}, P{1, 20}, P{2, 14}));
}

TEST(PlanTest, PausedAndUnknownAreSkipped) {
  PlanInput input = Input();
  input.sequences = {Decoder(1, 70), Decoder(2, 70), Waiting(3, 10)};
  input.sequences[0].runnable = false;
  input.sequences[2].runnable = false;
  const StepPlan plan = PlanOf(input);
  EXPECT_THAT(Work(plan), ElementsAre(P{1, 1}));
  EXPECT_THAT(plan.admit, IsEmpty());
}

TEST(PlanTest, ExtremePrioritiesAgeAsOthersDo) {
  PlanInput input = Input();
  input.max_residents = 1;
  input.sequences = {Waiting(0, 10), Waiting(1, 10)};
  input.sequences[0].priority = INT32_MIN;
  input.sequences[1].priority = INT32_MAX;
  input.sequences[0].aging = input.sequences[1].aging = 1'000'000;
  const StepPlan plan = PlanOf(input);
  EXPECT_THAT(plan.admit, ElementsAre(1));
  EXPECT_THAT(plan.park, IsEmpty()) << "what it has just admitted";
}

TEST(PlanTest, PassedDeadlineIsNeverPrefilled) {
  PlanInput input = Input();
  input.sequences = {Waiting(1, 10), Resident(2, 0, 10), Waiting(3, 10)};
  input.sequences[0].deadline = input.sequences[1].deadline = input.now;
  const StepPlan plan = PlanOf(input);
  EXPECT_THAT(plan.admit, ElementsAre(2));
  EXPECT_THAT(Work(plan), ElementsAre(P{2, 10}));
}

TEST(PlanTest, AdmitsByPriorityThenArrival) {
  PlanInput input = Input();
  input.max_residents = 2;
  input.sequences = {Waiting(3, 10), Waiting(1, 10), Waiting(2, 10)};
  EXPECT_THAT(PlanOf(input).admit, ElementsAre(1, 2));
  input.sequences[0].priority = 1;
  EXPECT_THAT(PlanOf(input).admit, ElementsAre(0, 1));
}

TEST(PlanTest, AgingGivesAPlaceButTakesNone) {
  PlanInput input = Input();
  input.max_residents = 2;
  input.sequences = {Decoder(1, 70), Waiting(2, 10), Waiting(3, 10)};
  input.sequences[0].priority = input.sequences[1].priority = 1;
  EXPECT_THAT(PlanOf(input).admit, ElementsAre(1));
  input.sequences[2].aging = 2;
  EXPECT_THAT(PlanOf(input).admit, ElementsAre(2));
  input.max_residents = 1;
  const StepPlan plan = PlanOf(input);
  EXPECT_THAT(plan.admit, IsEmpty()) << "it holds back the higher priority, and displaces nobody of its own";
  EXPECT_THAT(plan.park, IsEmpty());
}

TEST(PlanTest, AdmitsThePrincipalThatWasServedLeast) {
  PlanInput input = Input();
  input.max_residents = 2;
  input.service = {100, 0, 50};
  input.sequences = {Waiting(1, 10), Waiting(2, 10), Waiting(3, 10)};
  for (int32_t i = 0; i < 3; ++i) input.sequences[i].principal = i;
  EXPECT_THAT(PlanOf(input).admit, ElementsAre(1, 2));
}

TEST(PlanTest, PlacesGoRoundThePrincipals) {
  PlanInput input = Input();
  input.max_residents = 4;
  for (uint64_t i = 0; i < 10; ++i) input.sequences.push_back(Waiting(i, 10));  // principal 0, older
  input.sequences.push_back(Waiting(10, 10));
  input.sequences.push_back(Waiting(11, 10));
  input.sequences[10].principal = input.sequences[11].principal = 1;
  EXPECT_THAT(PlanOf(input).admit, UnorderedElementsAre(0, 1, 10, 11));
}

TEST(PlanTest, PrefillGoesToThePrincipalServedLeast) {
  PlanInput input = Input();
  input.service = {100, 0};
  input.sequences = {Resident(1, 0, 500), Resident(2, 0, 500)};
  input.sequences[1].principal = 1;
  EXPECT_THAT(Work(PlanOf(input)), ElementsAre(P{1, 64}));
}

TEST(PlanTest, OneThatDoesNotFitHoldsBackThoseBehindIt) {
  PlanInput input = Input();
  input.free_pages = 3;
  input.sequences = {Waiting(1, 300), Waiting(2, 10)};
  EXPECT_THAT(PlanOf(input).admit, IsEmpty());
  input.free_pages = 5;
  EXPECT_THAT(PlanOf(input).admit, ElementsAre(0));
  input.free_pages = 6;
  EXPECT_THAT(PlanOf(input).admit, ElementsAre(0, 1));
}

TEST(PlanTest, EvictsIdleSessionsLeastRecentlyUsedFirst) {
  PlanInput input = Input();
  input.free_pages = 1;
  input.idle = {{2}, {3}, {4}};
  input.sequences = {Waiting(1, 64 * 5)};
  const StepPlan plan = PlanOf(input);
  EXPECT_THAT(plan.evict, ElementsAre(0, 1));
  EXPECT_THAT(plan.admit, ElementsAre(0));
}

TEST(PlanTest, EvictsNobodyForOneThatCannotFitYet) {
  PlanInput input = Input();
  input.free_pages = 1;
  input.idle = {{2}, {3}};
  input.sequences = {Decoder(1, 70), Waiting(2, 64 * 20)};
  const StepPlan plan = PlanOf(input);
  EXPECT_THAT(plan.evict, IsEmpty());
  EXPECT_THAT(plan.admit, IsEmpty());
}

TEST(PlanTest, ShortOfOpenPagesClosesIdleSessionsInsteadOfEvictingThem) {
  PlanInput input = Input();
  input.free_open_pages = 0;
  input.idle = {{2, false}, {3, true}, {4, true}};
  input.sequences = {Waiting(1, 10)};
  input.sequences[0].needs_open_page = true;
  const StepPlan plan = PlanOf(input);
  EXPECT_THAT(plan.close, ElementsAre(1));
  EXPECT_THAT(plan.evict, IsEmpty());
  EXPECT_THAT(plan.admit, ElementsAre(0));
}

TEST(PlanTest, DropsWaitingBeforeRunning) {
  PlanInput input = Input();
  input.free_pages = 0;
  input.sequences = {Decoder(1, 65), Waiting(2, 300), Decoder(3, 70)};
  input.sequences[1].computed = 250;
  input.sequences[1].pages = input.sequences[1].own_pages = 4;
  input.sequences[1].runnable = false;  // paused: it keeps its pages until they are needed
  const StepPlan plan = PlanOf(input);
  EXPECT_THAT(plan.drop, ElementsAre(1));
  EXPECT_THAT(Work(plan), ElementsAre(P{0, 1}, P{2, 1}));
}

TEST(PlanTest, PreemptsTheLowestPriorityThenTheYoungest) {
  PlanInput input = Input();
  input.free_pages = 0;
  input.sequences = {Decoder(1, 65), Decoder(2, 70), Decoder(3, 70)};
  EXPECT_THAT(PlanOf(input).drop, ElementsAre(2));
  EXPECT_THAT(Work(PlanOf(input)), ElementsAre(P{0, 1}, P{1, 1}));
  input.sequences[1].priority = -1;
  EXPECT_THAT(PlanOf(input).drop, ElementsAre(1));
}

TEST(PlanTest, TheYoungestWaitsRatherThanPreemptItsElders) {
  PlanInput input = Input();
  input.free_pages = 0;
  input.sequences = {Decoder(1, 70), Decoder(2, 65)};
  const StepPlan plan = PlanOf(input);
  EXPECT_THAT(plan.drop, IsEmpty());
  EXPECT_THAT(Work(plan), ElementsAre(P{0, 1}));
}

TEST(PlanTest, HigherPriorityTakesAPlaceAndTheVictimKeepsItsPages) {
  PlanInput input = Input();
  input.max_residents = 2;
  input.sequences = {Decoder(1, 70), Decoder(2, 70), Waiting(3, 10)};
  EXPECT_THAT(PlanOf(input).admit, IsEmpty()) << "of equal priority nobody gives way";
  input.sequences[2].priority = 1;
  const StepPlan plan = PlanOf(input);
  EXPECT_THAT(plan.park, ElementsAre(1));
  EXPECT_THAT(plan.drop, IsEmpty());
  EXPECT_THAT(plan.admit, ElementsAre(2));
  EXPECT_THAT(Work(plan), ElementsAre(P{0, 1}, P{2, 10}));
}

TEST(PlanTest, HigherPriorityTakesPages) {
  PlanInput input = Input();
  input.free_pages = 1;
  input.sequences = {Decoder(1, 100), Decoder(2, 200), Waiting(3, 300)};
  input.sequences[2].priority = 1;
  const StepPlan plan = PlanOf(input);
  EXPECT_THAT(plan.drop, ElementsAre(1));
  EXPECT_THAT(plan.admit, ElementsAre(2));
  EXPECT_THAT(Work(plan), ElementsAre(P{0, 1}, P{2, 63}));
}

TEST(PlanTest, SharedPagesAreDroppedWhenNothingElseIsLeft) {
  // Forks of one prompt hold the same pages: dropping one frees nothing by itself.
  PlanInput input = Input();
  input.free_pages = 0;
  input.sequences = {Decoder(1, 65), Decoder(2, 65), Decoder(3, 65)};
  for (PlanSequence& s : input.sequences) s.own_pages = 0;
  EXPECT_THAT(PlanOf(input).drop, UnorderedElementsAre(1, 2));
}

TEST(PlanTest, AnIdleSessionThatSharesItsPagesGoesLast) {
  PlanInput input = Input();
  input.free_pages = 0;
  input.sequences = {Waiting(1, 70)};
  input.sequences[0].computed = 64;
  input.sequences[0].pages = 1;  // the idle session's
  input.idle = {{.pages = 0, .shares = true}, {.pages = 0, .shares = true}};
  StepPlan plan = PlanOf(input);
  EXPECT_THAT(plan.evict, ElementsAre(0)) << "what it gives is not known before it is gone";
  EXPECT_THAT(plan.admit, IsEmpty());
  input.idle.push_back({.pages = 1});
  plan = PlanOf(input);
  EXPECT_THAT(plan.evict, ElementsAre(2));
  EXPECT_THAT(plan.admit, ElementsAre(0));
}

TEST(PlanTest, APageSharedWithOthersCostsACopy) {
  PlanInput input = Input();
  input.sequences = {Decoder(1, 70), Decoder(2, 70)};
  input.sequences[0].copy_page = true;
  input.free_pages = 1;
  EXPECT_THAT(PlanOf(input).drop, IsEmpty());
  input.free_pages = 0;
  EXPECT_THAT(PlanOf(input).drop, ElementsAre(1));
}

}  // namespace
}  // namespace sessa
