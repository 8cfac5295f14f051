// Every RPC of Inference and Sessions but Generate's stream.
#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/server/services_fixture.h"

namespace sessa {
namespace {

// --- Inference

TEST_F(ServicesTest, RefusesABadRequestNamingTheField) {
  v1::GenerateRequest request;
  request.set_text("hi");
  request.mutable_sampling()->set_top_p(2);
  const grpc::Status status = Generate(client_->inference.get(), request).status;
  ExpectError(status, grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
  const Details details(status);
  ASSERT_EQ(details.bad_request.field_violations_size(), 1);
  EXPECT_EQ(details.bad_request.field_violations(0).field(), "sampling.top_p");
  EXPECT_EQ(core_->live_turns(), 0);
}

TEST_F(ServicesTest, WhatIsNotBuiltNamesTheFeature) {
  grpc::ClientContext context;
  v1::GenerateResponse message;
  const auto reader = client_->inference->Attach(&context, v1::AttachRequest());
  EXPECT_FALSE(reader->Read(&message));
  const grpc::Status status = reader->Finish();
  ExpectError(status, grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  EXPECT_NE(status.error_message().find("Attach"), std::string::npos);

  v1::Session session;
  ExpectError(
      Call(client_->sessions.get(), &v1::Sessions::Stub::UpdateSession, v1::UpdateSessionRequest(), &session),
      grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  ExpectError(
      Call(client_->sessions.get(), &v1::Sessions::Stub::ForkSession, v1::ForkSessionRequest(), &session),
      grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  ExpectError(
      Call(client_->sessions.get(), &v1::Sessions::Stub::RewindSession, v1::RewindSessionRequest(), &session),
      grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  v1::CreateSessionRequest labelled;
  (*labelled.mutable_labels())["a"] = "b";
  ExpectError(Call(client_->sessions.get(), &v1::Sessions::Stub::CreateSession, labelled, &session),
              grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  {
    grpc::ClientContext export_context;
    v1::SessionChunk chunk;
    const auto chunks = client_->sessions->ExportSession(&export_context, v1::ExportSessionRequest());
    EXPECT_FALSE(chunks->Read(&chunk));
    ExpectError(chunks->Finish(), grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  }
  {
    grpc::ClientContext import_context;
    const auto writer = client_->sessions->ImportSession(&import_context, &session);
    ExpectError(writer->Finish(), grpc::StatusCode::UNIMPLEMENTED, "NOT_IMPLEMENTED");
  }
}

TEST_F(ServicesTest, CancelTurnWantsExactlyOneName) {
  v1::CancelTurnRequest request;
  v1::CancelTurnResponse response;
  auto cancel = [&] {
    return Call(client_->inference.get(), &v1::Inference::Stub::CancelTurn, request, &response);
  };
  ExpectError(cancel(), grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
  request.set_turn_request_id("a");
  EXPECT_TRUE(cancel().ok()) << "an unknown turn is over already";
  request.set_session_id("b");
  ExpectError(cancel(), grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
  request.clear_turn_request_id();
  EXPECT_TRUE(cancel().ok());
}

TEST_F(ServicesTest, TokenizesAndBack) {
  v1::TokenizeRequest request;
  request.set_text("ab");
  request.set_with_pieces(true);
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(Call(client_->inference.get(), &v1::Inference::Stub::Tokenize, request, &tokens).ok());
  EXPECT_EQ(std::vector<int32_t>(tokens.token_ids().begin(), tokens.token_ids().end()),
            (std::vector<int32_t>{'a', 'b'}));
  ASSERT_EQ(tokens.pieces_size(), 2);
  EXPECT_EQ(tokens.pieces(1), "b");

  v1::DetokenizeRequest back;
  v1::DetokenizeResponse text;
  for (const int32_t id : std::vector<int32_t>{0, 'a', 'b'}) back.add_token_ids(id);
  auto detokenize = [&] {
    return Call(client_->inference.get(), &v1::Inference::Stub::Detokenize, back, &text);
  };
  ASSERT_TRUE(detokenize().ok());
  EXPECT_EQ(text.text(), "ab");
  back.set_skip_special_tokens(false);
  ASSERT_TRUE(detokenize().ok());
  EXPECT_EQ(text.text(), "<s>ab");
  back.add_token_ids(128);
  ExpectError(detokenize(), grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
}

TEST_F(ServicesTest, TellsTheModel) {
  v1::Model model;
  ASSERT_TRUE(
      Call(client_->inference.get(), &v1::Inference::Stub::GetModel, v1::GetModelRequest(), &model).ok());
  EXPECT_EQ(model.name(), "letters");
}

TEST_F(ServicesTest, RefusesAMessageThatIsTooLarge) {
  v1::GenerateRequest request;
  request.set_text(std::string(5 << 20, 'a'));
  EXPECT_EQ(Generate(client_->inference.get(), request).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ServicesTest, RefusesBytesThatAreNoMessage) {
  grpc::GenericStub stub(client_->channel);
  grpc::Slice slice("\xff\xff\xff\xff rubbish");
  grpc::ByteBuffer request(&slice, 1), response;
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareUnaryCall(&context, "/sessa.v1.Inference/Generate", request, &queue);
  call->StartCall();
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(Generate(client_->inference.get(),
                       [] {
                         v1::GenerateRequest good;
                         good.set_text("a");
                         return good;
                       }())
                  .status.ok());
}

TEST_F(ServicesTest, ReflectionNamesTheServices) {
  grpc::GenericStub stub(client_->channel);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto call =
      stub.PrepareCall(&context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  call->StartCall(nullptr);
  ASSERT_TRUE(wait());
  grpc::Slice list_services("\x3a\x00", 2);  // field 7, an empty string
  call->Write(grpc::ByteBuffer(&list_services, 1), nullptr);
  ASSERT_TRUE(wait());
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  ASSERT_TRUE(wait());
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(answer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices)
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  for (const char* service : {"sessa.v1.Inference", "sessa.v1.Sessions", "sessa.v1.Admin"}) {
    EXPECT_NE(bytes.find(service), std::string::npos) << service;
  }
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  wait();
}

// --- Sessions

TEST_F(ServicesTest, CreatesGetsAndDeletesSessions) {
  v1::Session session;
  ASSERT_TRUE(
      Call(client_->sessions.get(), &v1::Sessions::Stub::CreateSession, v1::CreateSessionRequest(), &session)
          .ok());
  EXPECT_EQ(session.session_id(), "new-session");
  EXPECT_EQ(session.ttl().seconds(), 24 * 3600);

  v1::GetSessionRequest get;
  get.set_session_id("new-session");
  EXPECT_TRUE(Call(client_->sessions.get(), &v1::Sessions::Stub::GetSession, get, &session).ok());
  v1::DeleteSessionRequest erase;
  v1::DeleteSessionResponse erased;
  erase.set_session_id("new-session");
  EXPECT_TRUE(Call(client_->sessions.get(), &v1::Sessions::Stub::DeleteSession, erase, &erased).ok());

  const grpc::Status gone = Call(client_->sessions.get(), &v1::Sessions::Stub::GetSession, get, &session);
  ExpectError(gone, grpc::StatusCode::NOT_FOUND, "SESSION_NOT_FOUND");
  const Details details(gone);
  EXPECT_EQ(details.resource.resource_type(), "session");
  EXPECT_EQ(details.resource.resource_name(), "new-session");
  ExpectError(
      Call(client_->sessions.get(), &v1::Sessions::Stub::GetSession, v1::GetSessionRequest(), &session),
      grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
}

TEST_F(ServicesTest, ListsSessionsPageByPage) {
  for (int i = 0; i < 25; ++i) {
    SessionInfo info;
    info.id = absl::StrCat("session-", i + 100);
    core_->AddSession(info);
  }
  v1::ListSessionsRequest request;
  request.set_page_size(10);
  std::vector<std::string> ids;
  std::vector<int> sizes;
  do {
    v1::ListSessionsResponse page;
    ASSERT_TRUE(Call(client_->sessions.get(), &v1::Sessions::Stub::ListSessions, request, &page).ok());
    sizes.push_back(page.sessions_size());
    for (const v1::Session& session : page.sessions()) ids.push_back(session.session_id());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(sizes, (std::vector<int>{10, 10, 5}));
  EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));
  EXPECT_EQ(std::set<std::string>(ids.begin(), ids.end()).size(), 25);

  v1::ListSessionsResponse page;
  request.set_page_token("");
  request.set_page_size(25);
  ASSERT_TRUE(Call(client_->sessions.get(), &v1::Sessions::Stub::ListSessions, request, &page).ok());
  EXPECT_EQ(page.next_page_token(), "") << "a full last page is the last";
  request.set_page_size(-1);
  ExpectError(Call(client_->sessions.get(), &v1::Sessions::Stub::ListSessions, request, &page),
              grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
  request.set_page_size(0);
  request.set_page_token("*");
  ExpectError(Call(client_->sessions.get(), &v1::Sessions::Stub::ListSessions, request, &page),
              grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD");
}

TEST_F(ServicesTest, TellsWhichTurnKeepsASessionBusy) {
  SessionInfo info;
  info.id = "s";
  info.busy = true;
  info.running_request_id = "turn-1";
  core_->AddSession(info);
  v1::GetSessionRequest get;
  get.set_session_id("s");
  v1::Session session;
  ASSERT_TRUE(Call(client_->sessions.get(), &v1::Sessions::Stub::GetSession, get, &session).ok());
  EXPECT_EQ(session.running_request_id(), "turn-1");
}

}  // namespace
}  // namespace sessa
