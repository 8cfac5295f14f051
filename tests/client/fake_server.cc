#include "tests/client/fake_server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace sessa {
namespace {

constexpr int kMaxSamples = 16;

// A status with details as the real server sends them.
template <typename... Details>
grpc::Status RichStatus(grpc::StatusCode code, const std::string& message, const Details&... details) {
  google::rpc::Status rich;
  rich.set_code(code);
  rich.set_message(message);
  (rich.add_details()->PackFrom(details), ...);
  return grpc::Status(code, message, rich.SerializeAsString());
}

grpc::Status FailureFor(const v1::GenerateRequest& request) {
  const std::string& prompt = request.text();
  google::rpc::ErrorInfo info;
  info.set_domain("sessa.v1");
  if (absl::StartsWith(prompt, "error:queue")) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_nanos(250'000'000);
    info.set_reason("QUEUE_FULL");
    return RichStatus(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full", info, retry);
  }
  const bool bad_n = request.sampling().n() < 0 || request.sampling().n() > kMaxSamples;
  if (bad_n || absl::StartsWith(prompt, "error:field")) {
    google::rpc::BadRequest bad;
    bad.add_field_violations()->set_field(bad_n ? "sampling.n" : "sampling.top_p");
    info.set_reason("INVALID_FIELD");
    return RichStatus(grpc::StatusCode::INVALID_ARGUMENT, "out of range", info, bad);
  }
  return grpc::Status::OK;
}

grpc::Status NoSession(const std::string& id) {
  google::rpc::ErrorInfo info;
  info.set_reason("SESSION_NOT_FOUND");
  google::rpc::ResourceInfo resource;
  resource.set_resource_name(absl::StrCat("session/", id));
  return RichStatus(grpc::StatusCode::NOT_FOUND, "no session with this ID", info, resource);
}

// How the samples of a prompt end, but for being cancelled.
v1::SampleFinished EndOf(const v1::GenerateRequest& request) {
  v1::SampleFinished end;
  end.set_reason(v1::FINISH_REASON_LENGTH);
  absl::string_view name = request.text();
  v1::FinishReason reason;
  if (absl::ConsumePrefix(&name, "reason:") &&
      v1::FinishReason_Parse(absl::StrCat("FINISH_REASON_", absl::StripAsciiWhitespace(name)), &reason)) {
    end.set_reason(reason);
  }
  if (absl::StrContains(request.text(), "halt")) {
    end.set_reason(v1::FINISH_REASON_STOP);
    end.set_stop_matched(request.sampling().stop(0));
  }
  return end;
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

std::vector<v1::ScoreRequest> FakeServer::scores() const {
  std::lock_guard<std::mutex> lock(mu_);
  return scores_;
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
  const bool late = absl::StartsWith(request->text(), "late");
  const bool wait = late || absl::StartsWith(request->text(), "wait");
  std::string session_id = request->session_id();
  int64_t position = 0;
  {
    std::unique_lock<std::mutex> lock(mu_);
    requests_.push_back(*request);
    if (session_id.empty()) session_id = absl::StrCat("session", requests_.size());
    position = positions_[session_id];
    if (!request->keep_session() && request->session_id().empty()) positions_.erase(session_id);
    changed_.notify_all();
    while (late && forgotten_cancels_ == 0) {
      if (context->IsCancelled()) return grpc::Status::CANCELLED;
      changed_.wait_for(lock, std::chrono::milliseconds(5));
    }
    running_.insert(request->request_id());
  }
  if (grpc::Status failure = FailureFor(*request); !failure.ok()) return failure;
  const int prompt_tokens = request->has_token_ids() ? request->token_ids().ids_size() : 5;
  v1::GenerateResponse event;
  event.mutable_started()->set_session_id(session_id);
  event.mutable_started()->set_request_id(request->request_id());
  event.mutable_started()->set_position(position);
  event.mutable_started()->set_prompt_tokens(prompt_tokens);
  writer->Write(event);
  if (request->text() == "error:broken") return grpc::Status::OK;
  const int samples = std::max(1, request->sampling().n());
  const int count = wait ? 1 : request->sampling().max_tokens();
  position += prompt_tokens;
  for (int i = 0; i < count; ++i, ++position) {
    for (int sample = 0; sample < samples; ++sample) {
      event.mutable_delta()->set_index(sample);
      event.mutable_delta()->set_position(position);
      event.mutable_delta()->clear_token_ids();
      event.mutable_delta()->add_token_ids(10 + i);
      event.mutable_delta()->set_text(absl::StrCat("w", i, " "));
      if (!writer->Write(event)) return grpc::Status::CANCELLED;
    }
  }
  v1::SampleFinished end = EndOf(*request);
  std::unique_lock<std::mutex> lock(mu_);
  while (wait && cancelled_.count(request->request_id()) == 0) {
    if (context->IsCancelled()) return grpc::Status::CANCELLED;
    changed_.wait_for(lock, std::chrono::milliseconds(5));
  }
  if (wait) end.set_reason(v1::FINISH_REASON_CANCELLED);
  tokens_ += count * samples;
  if (positions_.count(session_id) > 0) positions_[session_id] = position;
  running_.erase(request->request_id());
  lock.unlock();
  for (int sample = 0; sample < samples; ++sample) {
    *event.mutable_sample_finished() = end;
    event.mutable_sample_finished()->set_index(sample);
    writer->Write(event);
  }
  event.mutable_finished()->set_position(position);
  event.mutable_finished()->mutable_usage()->set_prompt_tokens(prompt_tokens);
  event.mutable_finished()->mutable_usage()->set_generated_tokens(count * samples);
  writer->Write(event);
  return grpc::Status::OK;
}

grpc::Status FakeServer::Score(grpc::ServerContext*, const v1::ScoreRequest* request,
                               grpc::ServerWriter<v1::ScoreResponse>* writer) {
  {
    std::lock_guard<std::mutex> lock(mu_);
    scores_.push_back(*request);
  }
  v1::ScoreResponse event;
  for (int i = 0; i < std::max(1, request->choices_size()); ++i) {
    event.mutable_score()->set_choice(i);
    writer->Write(event);
  }
  event.mutable_finished()->set_best_choice(0);
  writer->Write(event);
  return grpc::Status::OK;
}

grpc::Status FakeServer::CancelTurn(grpc::ServerContext*, const v1::CancelTurnRequest* request,
                                    v1::CancelTurnResponse*) {
  std::lock_guard<std::mutex> lock(mu_);
  if (running_.count(request->turn_request_id()) > 0) {
    cancelled_.insert(request->turn_request_id());
  } else {
    ++forgotten_cancels_;
  }
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

grpc::Status FakeServer::GetSession(grpc::ServerContext*, const v1::GetSessionRequest* request,
                                    v1::Session* response) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = positions_.find(request->session_id());
  if (found == positions_.end()) return NoSession(request->session_id());
  response->set_session_id(found->first);
  response->set_position(found->second);
  return grpc::Status::OK;
}

grpc::Status FakeServer::DeleteSession(grpc::ServerContext*, const v1::DeleteSessionRequest* request,
                                       v1::DeleteSessionResponse*) {
  std::lock_guard<std::mutex> lock(mu_);
  return positions_.erase(request->session_id()) > 0 ? grpc::Status::OK : NoSession(request->session_id());
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
