// The operator's HTTP beside clients that are slow on purpose.
#include "server/operator_http.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <deque>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace sessa {
namespace {

std::unique_ptr<OperatorHttp> Start(absl::Duration connection_time) {
  OperatorHttp::Pages pages;
  pages.metrics = [] { return std::string(1 << 20, 'm'); };
  pages.health = [] { return ""; };
  auto http = OperatorHttp::Start("127.0.0.1", 0, std::move(pages), connection_time);
  EXPECT_TRUE(http.ok()) << http.status();
  return *std::move(http);
}

// A client that sends a request's header byte by byte, until it is cut off or gives up.
class Trickle {
 public:
  explicit Trickle(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    Send("GET /metrics HTTP/1.1\r\nX-A: ");
    thread_ = std::thread([this] {
      for (int i = 0; i < 1500 && !cut_off_; ++i) {
        char byte = 0;
        cut_off_ = !Send("a") || recv(fd_, &byte, 1, MSG_DONTWAIT) == 0;
        absl::SleepFor(absl::Milliseconds(10));
      }
      shutdown(fd_, SHUT_RDWR);
    });
  }
  ~Trickle() {
    Join();
    close(fd_);
  }
  // Whether the server ended it.
  bool Join() {
    if (thread_.joinable()) thread_.join();
    return cut_off_;
  }

 private:
  bool Send(const std::string& bytes) { return send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) >= 0; }

  const int fd_;
  std::atomic<bool> cut_off_{false};
  std::thread thread_;
};

std::string Get(int port, const std::string& path) {
  httplib::Client client(absl::StrCat("http://127.0.0.1:", port));
  client.set_read_timeout(10);
  const httplib::Result result = client.Get(path);
  return result ? result->body : "no answer";
}

TEST(OperatorHttpTest, AnswersWhole) {
  const auto http = Start(absl::Seconds(5));
  EXPECT_EQ(Get(http->port(), "/metrics").size(), 1 << 20);
  EXPECT_EQ(Get(http->port(), "/healthz"), "ok\n");
}

TEST(OperatorHttpTest, DoesNotWaitForASlowClientAtItsEnd) {
  auto http = Start(absl::InfiniteDuration());
  Trickle client(http->port());
  EXPECT_EQ(Get(http->port(), "/healthz"), "ok\n");  // so the slow one, which came first, is being served
  http.reset();
  EXPECT_TRUE(client.Join()) << "it gave up first";
}

TEST(OperatorHttpTest, AnswersBesideManySlowClients) {
  const auto http = Start(absl::Milliseconds(200));
  std::deque<Trickle> clients;
  for (int i = 0; i < 20; ++i) clients.emplace_back(http->port());
  EXPECT_EQ(Get(http->port(), "/healthz"), "ok\n");
  for (Trickle& client : clients) EXPECT_TRUE(client.Join());
}

}  // namespace
}  // namespace sessa
