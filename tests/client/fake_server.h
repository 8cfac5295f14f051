// A server of sessa.v1 without a model, in this process, for tests of clients.
#pragma once

#include <grpcpp/server.h>

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "sessa/v1/admin.grpc.pb.h"
#include "sessa/v1/inference.grpc.pb.h"
#include "sessa/v1/sessions.grpc.pb.h"

namespace sessa {

// Answers Generate with max_tokens tokens 10, 11, ... whose texts are "w0 ", "w1 " ..., of every sample. A
// cancel of a turn that does not run is forgotten, as by the real server. Prompts say what else happens, by
// how they begin:
//   "error:queue", "error:field"  RESOURCE_EXHAUSTED with RetryInfo, INVALID_ARGUMENT with BadRequest
//   "error:broken"                breaks off with OK and no `finished`
//   "reason:NAME"                 ends with that FinishReason (without its prefix)
//   "wait"                        one token, then waits to be cancelled
//   "late"                        the same, but the turn is known only after somebody tried to cancel it
// Score gives every choice, or the prompt, a score of 0. A sample whose prompt has "halt" in it ends with
// STOP and the first stop string. Thread-safe.
class FakeServer : public v1::Inference::Service, public v1::Sessions::Service, public v1::Admin::Service {
 public:
  FakeServer();
  ~FakeServer() override;

  const std::string& address() const { return address_; }
  std::vector<v1::GenerateRequest> requests() const;  // that came to Generate, in order
  std::vector<v1::ScoreRequest> scores() const;       // that came to Score, in order
  std::set<std::string> sessions() const;             // ids that exist
  void WaitForTurns(size_t count);                    // until so many came to Generate

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override;
  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                     grpc::ServerWriter<v1::ScoreResponse>* writer) override;
  grpc::Status CancelTurn(grpc::ServerContext* context, const v1::CancelTurnRequest* request,
                          v1::CancelTurnResponse* response) override;
  grpc::Status GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                        v1::Model* response) override;
  grpc::Status ListSessions(grpc::ServerContext* context, const v1::ListSessionsRequest* request,
                            v1::ListSessionsResponse* response) override;
  grpc::Status GetSession(grpc::ServerContext* context, const v1::GetSessionRequest* request,
                          v1::Session* response) override;
  grpc::Status DeleteSession(grpc::ServerContext* context, const v1::DeleteSessionRequest* request,
                             v1::DeleteSessionResponse* response) override;
  grpc::Status ExportSession(grpc::ServerContext* context, const v1::ExportSessionRequest* request,
                             grpc::ServerWriter<v1::SessionChunk>* writer) override;
  grpc::Status ImportSession(grpc::ServerContext* context,
                             grpc::ServerReader<v1::ImportSessionRequest>* reader,
                             v1::Session* response) override;
  grpc::Status GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest* request,
                         v1::ServerStatus* response) override;
  grpc::Status WatchStatus(grpc::ServerContext* context, const v1::WatchStatusRequest* request,
                           grpc::ServerWriter<v1::ServerStatus>* writer) override;

 private:
  v1::ServerStatus Status() const;

  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::vector<v1::GenerateRequest> requests_;  // guarded by mu_
  std::vector<v1::ScoreRequest> scores_;       // guarded by mu_
  std::map<std::string, int64_t> positions_;   // of the sessions; guarded by mu_
  std::set<std::string> running_, cancelled_;  // request ids; guarded by mu_
  int forgotten_cancels_ = 0;                  // of turns that did not run; guarded by mu_
  uint64_t tokens_ = 0;                        // generated; guarded by mu_
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace sessa
