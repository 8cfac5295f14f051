// Bytes from the network as the request of any method, through gRPC to a daemon in this process: every call
// ends, with an answer or with an error that a client can read, and the daemon goes on serving. The first
// byte chooses the method, the rest is the message.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <grpcpp/generic/generic_stub.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/log.h"
#include "tests/fuzz/fuzz.h"
#include "tests/server/fake_core.h"
#include "tests/server/letters_model.h"
#include "tests/server/test_daemon.h"

namespace {

using google::protobuf::MethodDescriptor;

std::vector<const MethodDescriptor*> AllMethods() {
  std::vector<const MethodDescriptor*> methods;
  for (const char* service : {"sessa.v1.Inference", "sessa.v1.Sessions", "sessa.v1.Admin"}) {
    const auto* descriptor = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service);
    FUZZ_CHECK(descriptor != nullptr);
    for (int i = 0; i < descriptor->method_count(); ++i) methods.push_back(descriptor->method(i));
  }
  return methods;
}

bool IsMessage(const MethodDescriptor& method, const std::string& bytes) {
  const auto* prototype =
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(method.input_type());
  const std::unique_ptr<google::protobuf::Message> message(prototype->New());
  return message->ParseFromString(bytes);
}

class Server {
 public:
  Server() {
    sessa::DaemonOptions options = sessa::TestOptions();
    options.metrics_listen = "";
    auto daemon =
        sessa::Daemon::Start(options, sessa::LettersModel(std::make_unique<sessa::FakeCore>()), &telemetry_);
    FUZZ_CHECK(daemon.ok());
    daemon_ = *std::move(daemon);
    client_ = std::make_unique<sessa::Client>(daemon_->grpc_address());
  }

  // The first answers of a call, at most two: a watch has no end.
  grpc::Status Call(const MethodDescriptor& method, const std::string& bytes) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    grpc::GenericStub stub(client_->channel);
    grpc::CompletionQueue queue;
    const auto call = stub.PrepareCall(
        &context, absl::StrCat("/", method.service()->full_name(), "/", method.name()), &queue);
    const auto wait = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      FUZZ_CHECK(queue.Next(&tag, &ok));
      return ok;
    };
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    call->StartCall(nullptr);
    bool ok = wait();
    if (ok) {
      call->WriteLast(request, grpc::WriteOptions(), nullptr);
      ok = wait();
    }
    for (int answers = 0; ok; ++answers) {
      if (answers == 2) context.TryCancel();
      grpc::ByteBuffer answer;
      call->Read(&answer, nullptr);
      ok = wait();
    }
    grpc::Status status;
    call->Finish(&status, nullptr);
    wait();
    return status;
  }

 private:
  sessa::Telemetry telemetry_;
  std::unique_ptr<sessa::Daemon> daemon_;
  std::unique_ptr<sessa::Client> client_;
};

void CheckError(const MethodDescriptor& method, const grpc::Status& status) {
  FUZZ_CHECK(status.error_code() != grpc::StatusCode::UNKNOWN);
  FUZZ_CHECK(status.error_code() != grpc::StatusCode::INTERNAL);
  FUZZ_CHECK(status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED);
  if (status.error_code() == grpc::StatusCode::CANCELLED) {  // our own, of a stream that goes on
    FUZZ_CHECK(method.server_streaming());
    return;
  }
  const sessa::Details details(status);
  FUZZ_CHECK(details.has_info && !details.info.reason().empty());
  for (const char c : status.error_message()) FUZZ_CHECK(c >= 0x20 && c < 0x7f);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<const MethodDescriptor*> methods = AllMethods();
  static std::unique_ptr<Server> server = [] {
    sessa::StartLogging(false);
    sessa::CaptureLibraryMessages();
    return std::make_unique<Server>();
  }();
  if (size == 0) return 0;
  const MethodDescriptor& method = *methods[data[0] % methods.size()];
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const grpc::Status status = server->Call(method, bytes);
  if (!status.ok() && IsMessage(method, bytes)) CheckError(method, status);
  if (status.ok() && method.name() == "Drain") server = std::make_unique<Server>();  // it serves no more
  return 0;
}
