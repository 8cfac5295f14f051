#include "server/operator_http.h"

#include <httplib.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/http_stream.h"
#include "server/listen_error.h"

namespace sessa {
namespace {

constexpr char kIndex[] =
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>sessad</title><body>"
    "<h1>sessad</h1><p>A daemon that serves Sessa language models over gRPC; this is its operator's "
    "HTTP.</p><ul>"
    "<li><a href=\"/metrics\">/metrics</a>: figures for Prometheus</li>"
    "<li><a href=\"/healthz\">/healthz</a>: 200 while it serves, else 503 with the reason</li>"
    "<li><a href=\"/version\">/version</a>: what runs</li></ul></body></html>\n";
constexpr char kPlain[] = "text/plain; charset=utf-8";
constexpr int kThreads =
    16;  // a scrape takes a millisecond; a slow connection holds a thread for its whole time

void SetRoutes(httplib::Server& server, OperatorHttp::Pages pages) {
  server.Get("/", [](const httplib::Request&, httplib::Response& response) {
    response.set_content(kIndex, "text/html; charset=utf-8");
  });
  server.Get("/metrics", [metrics = pages.metrics](const httplib::Request&, httplib::Response& response) {
    response.set_content(metrics(), "text/plain; version=0.0.4; charset=utf-8");
  });
  server.Get("/healthz", [health = pages.health](const httplib::Request&, httplib::Response& response) {
    const std::string reason = health();
    response.status = reason.empty() ? 200 : 503;
    response.set_content(reason.empty() ? "ok\n" : absl::StrCat(reason, "\n"), kPlain);
  });
  server.Get("/version", [version = pages.version](const httplib::Request&, httplib::Response& response) {
    response.set_content(version + "\n", "application/json");
  });
  server.set_error_handler([](const httplib::Request&, httplib::Response& response) {
    if (response.status == 404) response.set_content("not found: see /\n", kPlain);
  });
}

// Gives every connection one request and a total time.
class BoundedServer : public httplib::Server {
 public:
  explicit BoundedServer(absl::Duration connection_time) : connection_time_(connection_time) {}
  ~BoundedServer() override { close(stop_fd_); }

  // Ends the connections that are open, and then itself.
  void Stop() {
    eventfd_write(stop_fd_, 1);
    stop();
  }

 private:
  bool process_and_close_socket(socket_t socket) override {
    HttpStream stream(socket, stop_fd_, absl::Now() + connection_time_);
    bool closed = false;
    const bool answered = process_request(stream, /*close_connection=*/true, closed, nullptr);
    shutdown(socket, SHUT_RDWR);
    close(socket);
    return answered;
  }

  const absl::Duration connection_time_;
  const int stop_fd_ = eventfd(0, EFD_CLOEXEC);
};

}  // namespace

struct OperatorHttp::Impl {
  explicit Impl(absl::Duration connection_time) : server(connection_time) {}
  BoundedServer server;
  std::thread thread;
  std::atomic<bool> ended{false};
  int port = 0;
};

OperatorHttp::OperatorHttp(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<OperatorHttp>> OperatorHttp::Start(const std::string& host, int port,
                                                                  Pages pages,
                                                                  absl::Duration connection_time) {
  auto impl = std::make_unique<Impl>(connection_time);
  httplib::Server& server = impl->server;
  SetRoutes(server, std::move(pages));
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  server.set_payload_max_length(4096);  // nothing here takes a body
  // httplib's default is SO_REUSEPORT, with which a second daemon would silently share the port.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  if (port == 0) {
    impl->port = server.bind_to_any_port(host);
  } else {
    impl->port = server.bind_to_port(host, port) ? port : -1;
  }
  if (impl->port <= 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", host, ":", port, ": ", WhyCannotListen({host, port})));
  }
  impl->thread = std::thread([impl = impl.get()] {
    pthread_setname_np(pthread_self(), "operator-http");
    impl->server.listen_after_bind();
    impl->ended = true;
  });
  return std::unique_ptr<OperatorHttp>(new OperatorHttp(std::move(impl)));
}

OperatorHttp::~OperatorHttp() {
  // stop() has no effect on a server that has not begun to run.
  while (!impl_->server.is_running() && !impl_->ended) std::this_thread::yield();
  impl_->server.Stop();
  impl_->thread.join();
}

int OperatorHttp::port() const { return impl_->port; }

}  // namespace sessa
