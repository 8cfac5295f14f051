#include "tests/client/fake_server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <chrono>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace sessa {
namespace {

// A status with details as the real server sends them.
template <typename... Details>
grpc::Status RichStatus(grpc::StatusCode code, const std::string& message, const Details&... details) {
  google::rpc::Status rich;
  rich.set_code(code);
  rich.set_message(message);
  (rich.add_details()->PackFrom(details), ...);
  return grpc::Status(code, message, rich.SerializeAsString());
}

grpc::Status FailureFor(const std::string& prompt) {
  google::rpc::ErrorInfo info;
  info.set_domain("sessa.v1");
  if (absl::StartsWith(prompt, "error:queue")) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_nanos(250'000'000);
    info.set_reason("QUEUE_FULL");
    return RichStatus(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full", info, retry);
  }
  if (absl::StartsWith(prompt, "error:field")) {
    google::rpc::BadRequest bad;
    bad.add_field_violations()->set_field("sampling.top_p");
    info.set_reason("INVALID_FIELD");
    return RichStatus(grpc::StatusCode::INVALID_ARGUMENT, "out of range", info, bad);
  }
  return grpc::Status::OK;
}

}  // namespace

FakeServer::FakeServer() {
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(static_cast<v1::Inference::Service*>(this));
  builder.RegisterService(static_cast<v1::Sessions::Service*>(this));
  builder.RegisterService(static_cast<v1::Admin::Service*>(this));
  server_ = builder.BuildAndStart();
  address_ = absl::StrCat("127.0.0.1:", port);
}

FakeServer::~FakeServer() { server_->Shutdown(std::chrono::system_clock::now()); }

std::vector<v1::GenerateRequest> FakeServer::requests() const {
  std::lock_guard<std::mutex> lock(mu_);
  return requests_;
}

std::set<std::string> FakeServer::sessions() const {
  std::lock_guard<std::mutex> lock(mu_);
  std::set<std::string> ids;
  for (const auto& [id, position] : positions_) ids.insert(id);
  return ids;
}

void FakeServer::WaitForTurns(size_t count) {
  std::unique_lock<std::mutex> lock(mu_);
  changed_.wait(lock, [&] { return requests_.size() >= count; });
}

grpc::Status FakeServer::Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                                  grpc::ServerWriter<v1::GenerateResponse>* writer) {
  std::string session_id = request->session_id();
  int64_t position = 0;
  {
    std::lock_guard<std::mutex> lock(mu_);
    requests_.push_back(*request);
    if (session_id.empty()) session_id = absl::StrCat("session", requests_.size());
    position = positions_[session_id];
    if (!request->keep_session() && request->session_id().empty()) positions_.erase(session_id);
    changed_.notify_all();
  }
  if (grpc::Status failure = FailureFor(request->text()); !failure.ok()) return failure;
  const int prompt_tokens = request->has_token_ids() ? request->token_ids().ids_size() : 5;
  v1::GenerateResponse event;
  event.mutable_started()->set_session_id(session_id);
  event.mutable_started()->set_request_id(request->request_id());
  event.mutable_started()->set_position(position);
  event.mutable_started()->set_prompt_tokens(prompt_tokens);
  writer->Write(event);
  if (request->text() == "error:broken") return grpc::Status::OK;
  const bool wait = request->text() == "wait";
  const int count = wait ? 1 : request->sampling().max_tokens();
  position += prompt_tokens;
  for (int i = 0; i < count; ++i) {
    event.mutable_delta()->set_position(position++);
    event.mutable_delta()->clear_token_ids();
    event.mutable_delta()->add_token_ids(10 + i);
    event.mutable_delta()->set_text(absl::StrCat("w", i, " "));
    if (!writer->Write(event)) return grpc::Status::CANCELLED;
  }
  auto* end = event.mutable_sample_finished();
  end->set_reason(v1::FINISH_REASON_LENGTH);
  std::unique_lock<std::mutex> lock(mu_);
  while (wait && cancelled_.count(request->request_id()) == 0) {
    if (context->IsCancelled()) return grpc::Status::CANCELLED;
    changed_.wait_for(lock, std::chrono::milliseconds(5));
  }
  if (wait) end->set_reason(v1::FINISH_REASON_CANCELLED);
  tokens_ += count;
  if (positions_.count(session_id) > 0) positions_[session_id] = position;
  lock.unlock();
  writer->Write(event);
  event.mutable_finished()->set_position(position);
  event.mutable_finished()->mutable_usage()->set_prompt_tokens(prompt_tokens);
  event.mutable_finished()->mutable_usage()->set_generated_tokens(count);
  writer->Write(event);
  return grpc::Status::OK;
}

grpc::Status FakeServer::CancelTurn(grpc::ServerContext*, const v1::CancelTurnRequest* request,
                                    v1::CancelTurnResponse*) {
  std::lock_guard<std::mutex> lock(mu_);
  cancelled_.insert(request->turn_request_id());
  changed_.notify_all();
  return grpc::Status::OK;
}

grpc::Status FakeServer::GetModel(grpc::ServerContext*, const v1::GetModelRequest*, v1::Model* response) {
  response->set_name("fake");
  response->set_backend("none");
  response->mutable_shape()->set_vocab_size(100);
  response->set_bos_token_id(1);
  response->set_eos_token_id(2);
  return grpc::Status::OK;
}

grpc::Status FakeServer::ListSessions(grpc::ServerContext*, const v1::ListSessionsRequest*,
                                      v1::ListSessionsResponse* response) {
  std::lock_guard<std::mutex> lock(mu_);
  for (const auto& [id, position] : positions_) {
    v1::Session* session = response->add_sessions();
    session->set_session_id(id);
    session->set_position(position);
  }
  return grpc::Status::OK;
}

grpc::Status FakeServer::DeleteSession(grpc::ServerContext*, const v1::DeleteSessionRequest* request,
                                       v1::DeleteSessionResponse*) {
  std::lock_guard<std::mutex> lock(mu_);
  if (positions_.erase(request->session_id()) > 0) return grpc::Status::OK;
  google::rpc::ErrorInfo info;
  info.set_reason("SESSION_NOT_FOUND");
  google::rpc::ResourceInfo resource;
  resource.set_resource_name(absl::StrCat("session/", request->session_id()));
  return RichStatus(grpc::StatusCode::NOT_FOUND, "no session with this ID", info, resource);
}

grpc::Status FakeServer::ExportSession(grpc::ServerContext*, const v1::ExportSessionRequest* request,
                                       grpc::ServerWriter<v1::SessionChunk>* writer) {
  v1::SessionChunk chunk;
  chunk.mutable_header()->set_source_session_id(request->session_id());
  writer->Write(chunk);
  for (int id : {1, 7, 9}) chunk.mutable_tokens()->add_token_ids(id);
  writer->Write(chunk);
  chunk.mutable_trailer()->set_crc32c(1);
  writer->Write(chunk);
  return grpc::Status::OK;
}

grpc::Status FakeServer::ImportSession(grpc::ServerContext*,
                                       grpc::ServerReader<v1::ImportSessionRequest>* reader,
                                       v1::Session* response) {
  v1::ImportSessionRequest request;
  response->set_session_id("imported");
  while (reader->Read(&request)) {
    response->set_position(response->position() + request.chunk().tokens().token_ids_size());
  }
  return grpc::Status::OK;
}

v1::ServerStatus FakeServer::Status() const {
  std::lock_guard<std::mutex> lock(mu_);
  v1::ServerStatus status;
  status.set_serving(true);
  status.mutable_totals()->set_generated_tokens(tokens_);
  return status;
}

grpc::Status FakeServer::GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                                   v1::ServerStatus* response) {
  *response = Status();
  return grpc::Status::OK;
}

grpc::Status FakeServer::WatchStatus(grpc::ServerContext* context, const v1::WatchStatusRequest*,
                                     grpc::ServerWriter<v1::ServerStatus>* writer) {
  while (!context->IsCancelled() && writer->Write(Status())) {
    std::unique_lock<std::mutex> lock(mu_);
    changed_.wait_for(lock, std::chrono::milliseconds(5));
  }
  return grpc::Status::CANCELLED;
}

}  // namespace sessa
