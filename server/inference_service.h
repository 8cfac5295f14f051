// sessa.v1.Inference.
#pragma once

#include <cstdint>
#include <string>

#include "server/generate_stream.h"
#include "server/request_parser.h"
#include "server/text_budget.h"
#include "server/token_calls.h"
#include "sessa/v1/inference.grpc.pb.h"

namespace sessa {

// Thread-safe; no method blocks.
class InferenceService final : public v1::Inference::CallbackService {
 public:
  // Score calls whose contents may be with the tokenizer pool at once, and their bytes.
  struct ScoreTexts {
    int32_t calls;
    int64_t bytes;
  };
  // What `context` points to outlives the service.
  InferenceService(const StreamContext& context, const v1::Model& model, ScoreTexts score_texts);

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request) override;
  grpc::ServerWriteReactor<v1::GenerateResponse>* Attach(grpc::CallbackServerContext* context,
                                                         const v1::AttachRequest* request) override;
  grpc::ServerWriteReactor<v1::ScoreResponse>* Score(grpc::CallbackServerContext* context,
                                                     const v1::ScoreRequest* request) override;
  grpc::ServerUnaryReactor* CancelTurn(grpc::CallbackServerContext* context,
                                       const v1::CancelTurnRequest* request,
                                       v1::CancelTurnResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest* request,
                                     v1::Model* response) override;

  // Ends calls whose clients do not take their answers. Called every fraction of a second.
  void CheckReaders(absl::Time now) { token_calls_.CheckReaders(now); }

 private:
  const StreamContext stream_context_;
  const RequestLimits& limits_;
  const v1::Model model_;
  TokenCalls token_calls_;
  TextBudget score_texts_;
};

}  // namespace sessa
