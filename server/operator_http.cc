#include "server/operator_http.h"

#include <httplib.h>
#include <pthread.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
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
constexpr int kThreads = 4;  // a scrape takes a millisecond; an idle connection holds a thread for a second

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

}  // namespace

struct OperatorHttp::Impl {
  httplib::Server server;
  std::thread thread;
  std::atomic<bool> ended{false};
  int port = 0;
};

OperatorHttp::OperatorHttp(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<OperatorHttp>> OperatorHttp::Start(const std::string& host, int port,
                                                                  Pages pages) {
  auto impl = std::make_unique<Impl>();
  httplib::Server& server = impl->server;
  SetRoutes(server, std::move(pages));
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  server.set_keep_alive_timeout(1);
  server.set_read_timeout(5);
  server.set_write_timeout(5);
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
  impl_->server.stop();
  impl_->thread.join();
}

int OperatorHttp::port() const { return impl_->port; }

}  // namespace sessa
