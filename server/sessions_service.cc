#include "server/sessions_service.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "runtime/base/errors.h"
#include "server/call.h"
#include "server/error_details.h"
#include "server/generate_stream.h"
#include "server/request_parser.h"
#include "server/response_builder.h"

namespace sessa {
namespace {

constexpr int32_t kDefaultPage = 100;
constexpr int32_t kMaxPage = 1000;

absl::Status RequireSession(const std::string& id) {
  if (id.empty()) return InvalidField("session_id", "must be given");
  return CheckSessionId("session_id", id);
}

// A page token is the last ID of the page before, in base64 so that nobody builds one by hand.
std::string ToPageToken(const std::string& last_id) { return absl::WebSafeBase64Escape(last_id); }

absl::StatusOr<std::string> FromPageToken(const std::string& token) {
  std::string id;
  if (token.size() <= 2 * kMaxSessionIdBytes && absl::WebSafeBase64Unescape(token, &id)) return id;
  return InvalidField("page_token", "not a next_page_token of this server");
}

class RefusedImport final : public grpc::ServerReadReactor<v1::ImportSessionRequest> {
 public:
  RefusedImport() { Finish(ToGrpcStatus(NotImplemented("ImportSession"))); }
  void OnDone() override { delete this; }
};

}  // namespace

SessionsService::SessionsService(Core* core, absl::Duration session_ttl)
    : core_(core), session_ttl_(session_ttl) {}

void SessionsService::Fill(const SessionInfo& info, v1::Session* out) const {
  out->set_session_id(info.id);
  out->set_position(info.position);
  out->set_cached_tokens(info.cached_tokens);
  out->set_busy(info.busy);
  out->set_running_request_id(info.running_request_id);
  *out->mutable_create_time() = ToProto(info.created);
  *out->mutable_last_use_time() = ToProto(info.last_used);
  *out->mutable_expire_time() = ToProto(info.last_used + session_ttl_);
  *out->mutable_ttl() = ToProto(session_ttl_);
}

std::function<void(absl::StatusOr<SessionInfo>)> SessionsService::Answer(grpc::ServerUnaryReactor* reactor,
                                                                         v1::Session* response) const {
  return [this, reactor, response](const absl::StatusOr<SessionInfo>& info) {
    if (info.ok()) Fill(*info, response);
    FinishUnary(reactor, info.status());
  };
}

grpc::ServerUnaryReactor* SessionsService::CreateSession(grpc::CallbackServerContext* context,
                                                         const v1::CreateSessionRequest* request,
                                                         v1::Session* response) {
  if (request->has_ttl()) return FinishUnary(context, NotImplemented("CreateSessionRequest.ttl"));
  if (!request->labels().empty()) return FinishUnary(context, NotImplemented("CreateSessionRequest.labels"));
  if (auto status = CheckRequestId("request_id", request->request_id()); !status.ok()) {
    return FinishUnary(context, status);
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  core_->CreateSession(CallerOf(*context), Answer(reactor, response));
  return reactor;
}

grpc::ServerUnaryReactor* SessionsService::GetSession(grpc::CallbackServerContext* context,
                                                      const v1::GetSessionRequest* request,
                                                      v1::Session* response) {
  if (auto status = RequireSession(request->session_id()); !status.ok()) return FinishUnary(context, status);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  core_->GetSession(CallerOf(*context), request->session_id(), Answer(reactor, response));
  return reactor;
}

grpc::ServerUnaryReactor* SessionsService::ListSessions(grpc::CallbackServerContext* context,
                                                        const v1::ListSessionsRequest* request,
                                                        v1::ListSessionsResponse* response) {
  if (request->page_size() < 0) {
    return FinishUnary(context, InvalidField("page_size", "must be at least 0"));
  }
  const auto after = FromPageToken(request->page_token());
  if (!after.ok()) return FinishUnary(context, after.status());
  const int32_t size = request->page_size() == 0 ? kDefaultPage : std::min(request->page_size(), kMaxPage);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  // One more than the page holds tells whether there is another page.
  core_->ListSessions(CallerOf(*context), *after, size + 1,
                      [=, this](const std::vector<SessionInfo>& sessions) {
                        for (size_t i = 0; i < sessions.size() && i < size; ++i)
                          Fill(sessions[i], response->add_sessions());
                        if (sessions.size() > size)
                          response->set_next_page_token(ToPageToken(sessions[size - 1].id));
                        reactor->Finish(grpc::Status::OK);
                      });
  return reactor;
}

grpc::ServerUnaryReactor* SessionsService::DeleteSession(grpc::CallbackServerContext* context,
                                                         const v1::DeleteSessionRequest* request,
                                                         v1::DeleteSessionResponse*) {
  if (auto status = RequireSession(request->session_id()); !status.ok()) return FinishUnary(context, status);
  if (auto status = CheckRequestId("request_id", request->request_id()); !status.ok()) {
    return FinishUnary(context, status);
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  core_->DeleteSession(CallerOf(*context), request->session_id(),
                       [reactor](const absl::Status& status) { FinishUnary(reactor, status); });
  return reactor;
}

grpc::ServerUnaryReactor* SessionsService::UpdateSession(grpc::CallbackServerContext* context,
                                                         const v1::UpdateSessionRequest*, v1::Session*) {
  return FinishUnary(context, NotImplemented("UpdateSession"));
}

grpc::ServerUnaryReactor* SessionsService::ForkSession(grpc::CallbackServerContext* context,
                                                       const v1::ForkSessionRequest*, v1::Session*) {
  return FinishUnary(context, NotImplemented("ForkSession"));
}

grpc::ServerUnaryReactor* SessionsService::RewindSession(grpc::CallbackServerContext* context,
                                                         const v1::RewindSessionRequest*, v1::Session*) {
  return FinishUnary(context, NotImplemented("RewindSession"));
}

grpc::ServerWriteReactor<v1::SessionChunk>* SessionsService::ExportSession(grpc::CallbackServerContext*,
                                                                           const v1::ExportSessionRequest*) {
  return new RefusedStream<v1::SessionChunk>(NotImplemented("ExportSession"));
}

grpc::ServerReadReactor<v1::ImportSessionRequest>* SessionsService::ImportSession(
    grpc::CallbackServerContext*, v1::Session*) {
  return new RefusedImport;
}

}  // namespace sessa
