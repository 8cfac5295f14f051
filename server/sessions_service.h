// sessa.v1.Sessions.
#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "scheduler/core.h"
#include "sessa/v1/sessions.grpc.pb.h"

namespace sessa {

// Thread-safe; no method blocks.
class SessionsService final : public v1::Sessions::CallbackService {
 public:
  // The core outlives the service. `session_ttl`: idle time after which it forgets a session.
  SessionsService(Core* core, absl::Duration session_ttl);

  grpc::ServerUnaryReactor* CreateSession(grpc::CallbackServerContext* context,
                                          const v1::CreateSessionRequest* request,
                                          v1::Session* response) override;
  grpc::ServerUnaryReactor* GetSession(grpc::CallbackServerContext* context,
                                       const v1::GetSessionRequest* request, v1::Session* response) override;
  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext* context,
                                         const v1::ListSessionsRequest* request,
                                         v1::ListSessionsResponse* response) override;
  grpc::ServerUnaryReactor* DeleteSession(grpc::CallbackServerContext* context,
                                          const v1::DeleteSessionRequest* request,
                                          v1::DeleteSessionResponse* response) override;

  // Not built yet: UNIMPLEMENTED names the feature.
  grpc::ServerUnaryReactor* UpdateSession(grpc::CallbackServerContext* context,
                                          const v1::UpdateSessionRequest*, v1::Session*) override;
  grpc::ServerUnaryReactor* ForkSession(grpc::CallbackServerContext* context, const v1::ForkSessionRequest*,
                                        v1::Session*) override;
  grpc::ServerUnaryReactor* RewindSession(grpc::CallbackServerContext* context,
                                          const v1::RewindSessionRequest*, v1::Session*) override;
  grpc::ServerWriteReactor<v1::SessionChunk>* ExportSession(grpc::CallbackServerContext* context,
                                                            const v1::ExportSessionRequest*) override;
  grpc::ServerReadReactor<v1::ImportSessionRequest>* ImportSession(grpc::CallbackServerContext* context,
                                                                   v1::Session*) override;

 private:
  void Fill(const SessionInfo& info, v1::Session* out) const;
  // A callback that answers a call whose response is a Session.
  std::function<void(absl::StatusOr<SessionInfo>)> Answer(grpc::ServerUnaryReactor* reactor,
                                                          v1::Session* response) const;

  Core* const core_;
  const absl::Duration session_ttl_;
};

}  // namespace sessa
