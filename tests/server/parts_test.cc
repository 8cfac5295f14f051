// The small parts of the server, each by itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "absl/time/clock.h"
#include "google/rpc/status.pb.h"
#include "nlohmann/json.hpp"
#include "runtime/base/errors.h"
#include "server/error_details.h"
#include "server/housekeeper.h"
#include "server/log.h"
#include "server/message_queue.h"
#include "server/model_loader.h"
#include "server/process_stats.h"
#include "server/response_builder.h"
#include "server/status_source.h"
#include "server/telemetry.h"
#include "server/turn_registry.h"
#include "sessa/v1/inference.pb.h"

namespace sessa {
namespace {

using testing::HasSubstr;

std::string Logged(bool json, const std::string& value) {
  testing::internal::CaptureStderr();
  StartLogging(json);
  Log(LogLevel::kWarning, "something", {{"key", value}});
  return testing::internal::GetCapturedStderr();
}

TEST(LogTest, WritesText) {
  EXPECT_THAT(Logged(false, "v"), HasSubstr(" warning something key=v\n"));
  EXPECT_THAT(Logged(false, "two words"), HasSubstr("key=\"two words\"\n"));
}

TEST(LogTest, WritesJson) {
  const auto line = nlohmann::json::parse(Logged(true, "two \"words\""));
  EXPECT_EQ(line.at("level"), "warning");
  EXPECT_EQ(line.at("message"), "something");
  EXPECT_EQ(line.at("key"), "two \"words\"");
  EXPECT_EQ(line.count("time"), 1);
}

TEST(LogTest, LetsNoControlCharacterThrough) {
  std::string hostile;
  for (int c = 0; c < 256; ++c) hostile += static_cast<char>(c);
  for (const bool json : {false, true}) {
    const std::string line = Logged(json, hostile);
    ASSERT_FALSE(line.empty());
    EXPECT_EQ(line.find('\n'), line.size() - 1) << "one line";
    for (const char c : line.substr(0, line.size() - 1))
      EXPECT_TRUE(c >= 0x20 && c < 0x7f) << static_cast<int>(c);
  }
  EXPECT_LT(Logged(false, std::string(100'000, 'x')).size(), 700);
}

TEST(ErrorDetailsTest, CutsWhatIsTooLongForMetadata) {
  const grpc::Status status =
      ToGrpcStatus(MakeError(absl::StatusCode::kInvalidArgument, std::string(100'000, 'x') + "\n",
                             {.reason = "R",
                              .field = std::string(100'000, 'f'),
                              .resource = "session/" + std::string(100'000, 's')}));
  EXPECT_LE(status.error_message().size(), 1024);
  EXPECT_LE(status.error_details().size(), 6000);
}

TEST(ErrorDetailsTest, MessagesArePrintable) {
  const grpc::Status status = ToGrpcStatus(absl::InternalError("a\x1b[2J\xff\n"));
  EXPECT_EQ(status.error_message(), "a?[2J??");
}

StateLayout Layout(StateDtype dtype) {
  StateLayout layout;
  layout.shape = {.vocab = 1024, .width = 384, .layers = 6, .heads = 6, .kv_heads = 2};
  layout.dtype = dtype;
  return layout;
}

TEST(DividePagesTest, StaysWithinTheMemory) {
  for (const StateDtype dtype : {StateDtype::kF32, StateDtype::kCompact}) {
    const StateLayout layout = Layout(dtype);
    for (int64_t mebibytes : {0, 1, 3, 30, 100, 256, 1000, 100'000}) {
      const PageCounts counts = DividePages(mebibytes << 20, layout, 256);
      const int64_t used = counts.pages * layout.page_bytes() + counts.open_pages * layout.open_page_bytes();
      EXPECT_LE(used, mebibytes << 20);
      EXPECT_GE(counts.pages, 0);
      const int64_t wasted = (mebibytes << 20) - used;
      EXPECT_TRUE(mebibytes < 3 || wasted < 2 * layout.page_bytes() + 2 * layout.open_page_bytes()) << wasted;
      EXPECT_EQ(counts.open_pages > 0, dtype == StateDtype::kCompact && mebibytes >= 3);
      EXPECT_LE(counts.open_pages, counts.pages);
    }
  }
}

TEST(DividePagesTest, NoNumberIsTooLarge) {
  for (const StateDtype dtype : {StateDtype::kF32, StateDtype::kCompact}) {
    const PageCounts counts = DividePages(std::numeric_limits<int64_t>::max(), Layout(dtype), 256);
    EXPECT_GE(counts.pages, 1 << 29);
    EXPECT_GE(counts.open_pages, 0);
  }
}

TEST(DividePagesTest, ALargeMemoryHasAnOpenPageForEveryFourth) {
  const PageCounts counts = DividePages(int64_t{8} << 30, Layout(StateDtype::kCompact), 256);
  EXPECT_NEAR(counts.open_pages, counts.pages / 4, 1);
}

class CountingTurn : public LiveTurn {
 public:
  void CheckReader(absl::Time) override { ++checks; }
  void CancelByRequest() override { ++cancels; }
  int checks = 0, cancels = 0;
};

TEST(TurnRegistryTest, KeepsTurnsApart) {
  TurnRegistry registry;
  const Principal alice{"alice"}, bob{"bob"};
  const auto one = std::make_shared<CountingTurn>(), two = std::make_shared<CountingTurn>();
  EXPECT_TRUE(registry.Add(alice, "id", one));
  EXPECT_FALSE(registry.Add(alice, "id", two)) << "in use";
  EXPECT_TRUE(registry.Add(bob, "id", two)) << "another principal's";
  registry.Cancel(alice, "id");
  registry.CheckReaders(absl::Now());
  EXPECT_EQ(one->cancels, 1);
  EXPECT_EQ(two->cancels, 0);
  EXPECT_EQ(one->checks, 1);
  EXPECT_EQ(two->checks, 1);
  registry.Release(alice, "id", one.get());
  registry.CheckReaders(absl::Now());
  EXPECT_EQ(one->checks, 2) << "still looked after";
  const auto three = std::make_shared<CountingTurn>();
  EXPECT_TRUE(registry.Add(alice, "id", three)) << "the name is free";
  registry.Remove(alice, "id", one.get());
  registry.CheckReaders(absl::Now());
  EXPECT_EQ(one->checks, 2) << "gone";
  EXPECT_EQ(three->checks, 1) << "the other one of that name stays";
  registry.Remove(alice, "id", three.get());
  registry.CheckReaders(absl::Now());
  EXPECT_EQ(three->checks, 1);
  EXPECT_EQ(two->checks, 4);
}

TEST(StatusTest, NotServingHasAReason) {
  CoreStatus status;
  EXPECT_EQ(StatusSource::NotServingReason(status, absl::Seconds(1)), "not serving");
  status.serving = true;
  status.step_age = absl::Seconds(1);
  EXPECT_EQ(StatusSource::NotServingReason(status, absl::Seconds(1)), "");
  // The engine may hang in its first step after having had nothing to do: no turn is counted then.
  status.step_age = absl::Hours(1);
  EXPECT_THAT(StatusSource::NotServingReason(status, absl::Seconds(1)), HasSubstr("no step for 1h"));
}

TEST(TelemetryTest, KeepsWhyTheDeviceFailed) {
  Telemetry telemetry;
  const CoreHooks hooks = telemetry.Hooks();
  EXPECT_TRUE(telemetry.failure().ok());
  hooks.on_fatal(absl::InternalError("an illegal memory access was encountered"));
  EXPECT_EQ(telemetry.failure().message(), "an illegal memory access was encountered");
}

TEST(ResponseBuilderTest, ConvertsTimes) {
  EXPECT_EQ(ToProto(absl::Milliseconds(-1500)).seconds(), -1);
  EXPECT_EQ(ToProto(absl::Milliseconds(-1500)).nanos(), -500'000'000);
  EXPECT_EQ(ToProto(absl::InfiniteDuration()).seconds(), 0);
  EXPECT_EQ(ToProto(absl::FromUnixMillis(1500)).seconds(), 1);
  EXPECT_EQ(ToProto(absl::FromUnixMillis(1500)).nanos(), 500'000'000);
}

TEST(MessageQueueTest, IsAQueue) {
  MessageQueue<v1::ScoreResponse> queue;
  v1::ScoreResponse small, large;
  small.mutable_score()->set_choice(1);
  for (int i = 0; i < 100; ++i) large.mutable_tokens()->add_tokens()->mutable_token()->set_token_id(i);
  queue.Add(small);
  const int64_t bytes = queue.bytes();
  EXPECT_GT(bytes, 0);
  queue.Add(large);
  EXPECT_GT(queue.bytes(), 10 * bytes);
  EXPECT_EQ(queue.Pop()->score().choice(), 1);
  EXPECT_EQ(queue.messages(), 1);
  EXPECT_GT(queue.bytes(), 9 * bytes);
  queue.Add(small);
  EXPECT_EQ(queue.Pop()->tokens().tokens_size(), 100);
  EXPECT_EQ(queue.bytes(), bytes);
  queue.Clear();
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.bytes(), 0);
}

TEST(ProcessStatsTest, ReadsThisProcess) {
  const ProcessStats stats = ReadProcessStats();
  EXPECT_GT(stats.resident_bytes, 1 << 20);
  EXPECT_GE(stats.open_files, 3);
  EXPECT_GE(stats.threads, 1);
  EXPECT_GT(stats.cpu_time, absl::ZeroDuration());
  EXPECT_LE(ProcessStartTime(), absl::Now());
}

class TrimmerTest : public testing::Test {
 protected:
  // So many mebibytes are free for a time.
  void Free(int64_t mebibytes, int64_t seconds) {
    free_ = mebibytes << 20;
    for (int64_t i = 0; i < 10 * seconds; ++i) trimmer_.Tick(now_ += absl::Milliseconds(100));
  }

  int64_t free_ = 0;
  int trims_ = 0;
  MemoryTrimmer trimmer_{{[this] { return free_; }, [this] { ++trims_; }}};
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
};

TEST_F(TrimmerTest, TrimsWhatBecameFree) {
  Free(20, 60);
  for (int64_t mebibytes = 100; mebibytes <= 4000; mebibytes += 100) Free(mebibytes, 1);
  EXPECT_EQ(trims_, 0) << "more becomes free";
  Free(4000, 10);
  EXPECT_EQ(trims_, 1);
  Free(4000, 300);
  EXPECT_EQ(trims_, 1) << "that is free and given back";
  Free(3000, 10);
  Free(4000, 20);
  EXPECT_EQ(trims_, 2) << "a part was in use again";
}

TEST_F(TrimmerTest, LeavesALittleAlone) {
  Free(20, 60);
  Free(60, 60);
  EXPECT_EQ(trims_, 0);
}

TEST_F(TrimmerTest, DoesNotTrimAllTheTime) {
  for (int i = 0; i < 6; ++i) {  // what was given back is needed again at once
    Free(0, 10);
    Free(400, 10);
  }
  EXPECT_GE(trims_, 1);
  EXPECT_LE(trims_, 4);
}

}  // namespace
}  // namespace sessa
