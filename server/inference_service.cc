#include "server/inference_service.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/base/errors.h"
#include "runtime/text/text_stream.h"
#include "server/call.h"
#include "server/error_details.h"
#include "server/score_stream.h"

namespace sessa {
namespace {

constexpr size_t kMaxTokenizeBytes = 1 << 20;  // a few seconds of one tokenizer thread
constexpr int kMaxDetokenizeIds = 1 << 20;     // as many as such a text may give

absl::Status NoTokenizer() {
  return MakeError(absl::StatusCode::kFailedPrecondition,
                   "this model has no tokenizer: it takes and gives token ids", {.reason = "NO_TOKENIZER"});
}

// Of what is to be tokenised.
int64_t TextBytes(const ScorePlan& plan) {
  const auto bytes = [](const Content& content) -> int64_t {
    const auto* text = std::get_if<std::string>(&content);
    return text == nullptr ? 0 : static_cast<int64_t>(text->size());
  };
  int64_t sum = bytes(plan.prompt);
  for (const Content& choice : plan.choices) sum += bytes(choice);
  return sum;
}

void FillTokens(const std::vector<int32_t>& ids, const Tokenizer* pieces_from,
                v1::TokenizeResponse* response) {
  response->mutable_token_ids()->Add(ids.begin(), ids.end());
  if (pieces_from == nullptr) return;
  for (const int32_t id : ids) {
    const absl::string_view bytes = pieces_from->TokenBytes(id);
    response->add_pieces(bytes.data(), bytes.size());
  }
}

}  // namespace

InferenceService::InferenceService(const StreamContext& context, const v1::Model& model,
                                   ScoreTexts score_texts)
    : stream_context_(context),
      limits_(*context.limits),
      model_(model),
      token_calls_(context.core, context.slow_reader_timeout),
      score_texts_(score_texts.calls, score_texts.bytes) {}

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  auto turn = ParseGenerate(*request, limits_, RandomBits(), request->request_id().empty() ? RandomId() : "");
  if (!turn.ok()) {
    stream_context_.metrics->OnRefused(turn.status().code());
    return new RefusedStream<v1::GenerateResponse>(turn.status());
  }
  (*turn)->principal = CallerOf(*context);
  (*turn)->deadline = DeadlineOf(*context);
  return GenerateStream::Start(stream_context_, context, *std::move(turn));
}

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Attach(grpc::CallbackServerContext*,
                                                                         const v1::AttachRequest*) {
  return new RefusedStream<v1::GenerateResponse>(NotImplemented("Attach"));
}

grpc::ServerWriteReactor<v1::ScoreResponse>* InferenceService::Score(grpc::CallbackServerContext* context,
                                                                     const v1::ScoreRequest* request) {
  auto plan = ParseScore(*request, limits_, request->request_id().empty() ? RandomId() : "");
  if (!plan.ok()) {
    stream_context_.metrics->OnRefused(plan.status().code());
    return new RefusedStream<v1::ScoreResponse>(plan.status());
  }
  plan->principal = CallerOf(*context);
  plan->deadline = DeadlineOf(*context);
  auto share = score_texts_.Take(TextBytes(*plan));
  if (!share.ok()) {
    stream_context_.metrics->OnRefused(share.status().code());
    return new RefusedStream<v1::ScoreResponse>(share.status());
  }
  return ScoreStream::Start(stream_context_, context, *std::move(plan), *std::move(share));
}

grpc::ServerUnaryReactor* InferenceService::CancelTurn(grpc::CallbackServerContext* context,
                                                       const v1::CancelTurnRequest* request,
                                                       v1::CancelTurnResponse*) {
  if (request->turn_request_id().empty() == request->session_id().empty()) {
    return FinishUnary(context, InvalidField("turn_request_id", "give this or session_id, one of the two"));
  }
  for (const absl::Status& status : {CheckRequestId("turn_request_id", request->turn_request_id()),
                                     CheckSessionId("session_id", request->session_id()),
                                     CheckRequestId("request_id", request->request_id())}) {
    if (!status.ok()) return FinishUnary(context, status);
  }
  const Principal principal = CallerOf(*context);
  if (request->session_id().empty()) {
    stream_context_.registry->Cancel(principal, request->turn_request_id());
  } else {
    stream_context_.core->CancelOnSession(principal, request->session_id());
  }
  return FinishUnary(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  if (stream_context_.tokenizer == nullptr) return FinishUnary(context, NoTokenizer());
  if (request->text().size() > kMaxTokenizeBytes) {
    return FinishUnary(context, InvalidField("text", absl::StrCat("at most ", kMaxTokenizeBytes, " bytes")));
  }
  auto work = [tokenizer = stream_context_.tokenizer, text = request->text(),
               with_pieces = request->with_pieces(), response]() -> absl::StatusOr<TokenCalls::Fill> {
    auto ids = tokenizer->Encode(text);
    if (!ids.ok()) return ids.status();
    return [=, ids = *std::move(ids)] { FillTokens(ids, with_pieces ? tokenizer : nullptr, response); };
  };
  return token_calls_.Start(context, static_cast<int64_t>(request->text().size()), std::move(work));
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  if (stream_context_.tokenizer == nullptr) return FinishUnary(context, NoTokenizer());
  if (request->token_ids_size() > kMaxDetokenizeIds) {
    return FinishUnary(context,
                       InvalidField("token_ids", absl::StrCat("at most ", kMaxDetokenizeIds, " ids")));
  }
  for (const int32_t id : request->token_ids()) {
    if (id < 0 || id >= limits_.vocab) {
      return FinishUnary(
          context, InvalidField("token_ids", absl::StrCat("token ids lie in [0, ", limits_.vocab, "), ", id,
                                                          " does not")));
    }
  }
  auto work = [tokenizer = stream_context_.tokenizer,
               ids = std::vector<int32_t>(request->token_ids().begin(), request->token_ids().end()),
               skip = !request->has_skip_special_tokens() || request->skip_special_tokens(),
               response]() -> absl::StatusOr<TokenCalls::Fill> {
    return [response, text = DecodeTokens(*tokenizer, ids, skip)]() mutable {
      response->set_text(std::move(text));
    };
  };
  return token_calls_.Start(context, request->token_ids_size() * int64_t{sizeof(int32_t)}, std::move(work));
}

grpc::ServerUnaryReactor* InferenceService::GetModel(grpc::CallbackServerContext* context,
                                                     const v1::GetModelRequest*, v1::Model* response) {
  *response = model_;
  return FinishUnary(context, absl::OkStatus());
}

}  // namespace sessa
