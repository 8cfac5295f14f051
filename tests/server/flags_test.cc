#include "server/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/str_cat.h"

namespace sessa {
namespace {

using testing::HasSubstr;

void Set(absl::string_view name, absl::string_view value) {
  std::string error;
  absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
  ASSERT_NE(flag, nullptr) << name;
  ASSERT_TRUE(flag->ParseFrom(value, &error)) << error;
}

TEST(FlagsTest, TheDefaultsAreValid) {
  absl::FlagSaver saver;
  const auto options = ValidateFlags();
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_THAT(options->model_dir, HasSubstr("sessa-recall-7m"));
  EXPECT_EQ(options->listen, "127.0.0.1:50051");
  EXPECT_EQ(options->metrics_listen, "127.0.0.1:9464");
  EXPECT_GE(options->cpu_threads, 1);
  EXPECT_FALSE(options->state_memory.has_value());
}

struct Case {
  const char* flag;
  const char* value;
  const char* says;
};

class BadFlagTest : public testing::TestWithParam<Case> {};

TEST_P(BadFlagTest, IsRefusedNamingTheFlag) {
  absl::FlagSaver saver;
  Set(GetParam().flag, GetParam().value);
  const absl::Status status = ValidateFlags().status();
  ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("--", GetParam().flag, ":")));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    Values, BadFlagTest,
    testing::Values(
        Case{"model", "/no/such/folder", "is not a folder"}, Case{"listen", "localhost", "HOST:PORT"},
        Case{"listen", "", "HOST:PORT"}, Case{"listen", ":50051", "HOST:PORT"},
        Case{"listen", "::1:50051", "HOST:PORT"}, Case{"listen", "localhost:65536", "HOST:PORT"},
        Case{"listen", "localhost:-1", "HOST:PORT"}, Case{"listen", "unix:", "HOST:PORT"},
        Case{"metrics_listen", "9464", "HOST:PORT"}, Case{"backend", "gpu", "auto, cpu, cuda or reference"},
        Case{"batch_invariant", "false", "by construction"}, Case{"device", "-1", "at least 0"},
        Case{"cpu_threads", "-2", "at least 0"}, Case{"cpu_threads", "200000", "at most 4096"},
        Case{"state_memory", "lots", "suffix K, M, G or T"}, Case{"state_memory", "-1", "suffix"},
        Case{"state_memory", "9999999999G", "suffix"}, Case{"state_dtype", "f16", "auto, f32 or compact"},
        Case{"max_batch_tokens", "0", "at least 1"},
        Case{"max_batch_tokens", "100", "at least --max_batch_sessions"},
        Case{"max_batch_sessions", "0", "at least 1"}, Case{"max_waiting", "0", "at least 1"},
        Case{"max_context", "-1", "at least 0"}, Case{"max_context", "1073741825", "at most 1073741824"},
        Case{"max_context", "9223372036854775807", "at most"}, Case{"tokenizer_threads", "0", "at least 1"},
        Case{"durability", "maybe", "none, process or power"}, Case{"durability", "process", "session store"},
        Case{"durability", "power", "session store"}, Case{"drain_timeout", "-1s", "negative"},
        Case{"slow_reader_timeout", "0", "longer than 0"}, Case{"stall_timeout", "0", "longer than 0"},
        Case{"idle_state_ttl", "0", "longer than 0"}, Case{"idle_session_ttl", "-1h", "longer than 0"},
        Case{"max_request_bytes", "1", "between 1K"}, Case{"max_request_bytes", "2G", "between 1K"},
        Case{"max_sessions", "0", "at least 1"}, Case{"max_streams_per_connection", "0", "at least 1"},
        Case{"log_format", "xml", "text or json"}));

TEST(FlagsTest, EveryFlagSaysWhatItDoes) {
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (flag->Filename().find("server/flags.cc") == absl::string_view::npos) continue;
    EXPECT_GE(flag->Help().size(), 40) << name;
  }
}

TEST(ParseBytesTest, TakesSuffixes) {
  EXPECT_EQ(*ParseBytes("0"), 0);
  EXPECT_EQ(*ParseBytes("123"), 123);
  EXPECT_EQ(*ParseBytes("4K"), 4096);
  EXPECT_EQ(*ParseBytes("2m"), 2 << 20);
  EXPECT_EQ(*ParseBytes("3G"), int64_t{3} << 30);
  EXPECT_EQ(*ParseBytes("1T"), int64_t{1} << 40);
  for (const char* bad : {"", "K", "1.5G", "1KB", " 1", "+1", "99999999999999999999"}) {
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
  }
}

TEST(ParseHostPortTest, TakesNamesAndAddresses) {
  EXPECT_EQ(ParseHostPort("localhost:1")->host, "localhost");
  EXPECT_EQ(ParseHostPort("0.0.0.0:65535")->port, 65535);
  EXPECT_EQ(ParseHostPort("[::1]:7")->host, "::1");
  EXPECT_FALSE(ParseHostPort("[]:7").ok());
}

}  // namespace
}  // namespace sessa
