// Bytes from the network as Generate and Score requests: refused with an error that a client can read, or a
// turn that keeps every limit. The first byte says which of the two the rest is.
#include <algorithm>
#include <cmath>
#include <string>

#include "google/rpc/status.pb.h"
#include "runtime/base/errors.h"
#include "server/error_details.h"
#include "server/log.h"
#include "server/request_parser.h"
#include "tests/fuzz/fuzz.h"

namespace {

sessa::RequestLimits Limits(bool has_tokenizer) {
  sessa::RequestLimits limits;
  limits.vocab = 1024;
  limits.max_context = 64;
  limits.has_tokenizer = has_tokenizer;
  limits.max_token_bytes = has_tokenizer ? 16 : 0;
  limits.eos_token = 2;
  return limits;
}

void CheckContent(const sessa::Content& content, const sessa::RequestLimits& limits) {
  if (const auto* text = std::get_if<std::string>(&content)) {
    FUZZ_CHECK(static_cast<int64_t>(text->size()) <= limits.max_context * limits.max_token_bytes);
    return;
  }
  const auto& ids = std::get<std::vector<int32_t>>(content);
  FUZZ_CHECK(static_cast<int64_t>(ids.size()) <= limits.max_context);
  for (const int32_t id : ids) FUZZ_CHECK(id >= 0 && id < limits.vocab);
}

void CheckSampling(const sessa::TurnRequest& turn, const sessa::RequestLimits& limits) {
  const sessa::SampleParams& p = turn.sampling;
  FUZZ_CHECK(turn.max_tokens >= 0 && turn.n >= 1 && turn.n <= sessa::kMaxSamples);
  FUZZ_CHECK(p.min_tokens >= 0 && p.min_tokens <= turn.max_tokens);
  FUZZ_CHECK(p.temperature >= 0 && p.temperature <= 100 && p.top_k >= 0 && p.top_p > 0 && p.top_p <= 1);
  FUZZ_CHECK(p.min_p >= 0 && p.min_p <= 1 && p.repetition_penalty > 0 && std::isfinite(p.repetition_penalty));
  FUZZ_CHECK(std::isfinite(p.presence_penalty) && std::isfinite(p.frequency_penalty));
  FUZZ_CHECK(p.top_logprobs >= -1 && p.top_logprobs <= sessa::kMaxLogprobs);
  FUZZ_CHECK(turn.prompt_logprobs >= -1 && turn.prompt_logprobs <= sessa::kMaxLogprobs);
  FUZZ_CHECK(turn.stop.size() <= 16 && p.logit_bias.size() <= sessa::kMaxLogitBias);
  FUZZ_CHECK(std::is_sorted(p.enders.begin(), p.enders.end()));
  FUZZ_CHECK(std::is_sorted(p.logit_bias.begin(), p.logit_bias.end()));
  for (const auto& [token, bias] : p.logit_bias)
    FUZZ_CHECK(token >= 0 && token < limits.vocab && std::abs(bias) <= 100);
  for (const int32_t token : p.allowed_tokens) FUZZ_CHECK(token >= 0 && token < limits.vocab);
}

void CheckError(const absl::Status& status) {
  FUZZ_CHECK(!sessa::GetErrorDetail(status).reason.empty());
  const grpc::Status sent = sessa::ToGrpcStatus(status);
  google::rpc::Status rich;
  FUZZ_CHECK(rich.ParseFromString(sent.error_details()));
  FUZZ_CHECK(rich.details_size() >= 1 && sent.error_details().size() < 4096);
  for (const char c : sent.error_message()) FUZZ_CHECK(c >= 0x20 && c < 0x7f);
  for (const char c : sessa::EscapeForLog(status.message())) FUZZ_CHECK(c >= 0x20 && c < 0x7f);
}

void TryGenerate(const std::string& bytes, const sessa::RequestLimits& limits) {
  sessa::v1::GenerateRequest request;
  if (!request.ParseFromString(bytes)) return;
  const auto turn = sessa::ParseGenerate(request, limits, 1, "fresh");
  if (!turn.ok()) return CheckError(turn.status());
  CheckContent((*turn)->prompt, limits);
  CheckSampling(**turn, limits);
  FUZZ_CHECK(!(*turn)->request_id.empty() && (*turn)->request_id.size() <= sessa::kMaxRequestIdBytes);
  FUZZ_CHECK((*turn)->session_id.size() <= sessa::kMaxSessionIdBytes);
  for (const char c : (*turn)->session_id) FUZZ_CHECK(c > 0x20 && c < 0x7f);
}

void TryScore(const std::string& bytes, const sessa::RequestLimits& limits) {
  sessa::v1::ScoreRequest request;
  if (!request.ParseFromString(bytes)) return;
  const auto plan = sessa::ParseScore(request, limits, "fresh");
  if (!plan.ok()) return CheckError(plan.status());
  CheckContent(plan->prompt, limits);
  FUZZ_CHECK(plan->choices.size() <= sessa::kMaxChoices && plan->top_logprobs <= sessa::kMaxLogprobs);
  for (const sessa::Content& choice : plan->choices) CheckContent(choice, limits);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const bool quiet = [] {
    sessa::StartLogging(false);
    sessa::CaptureLibraryMessages();
    return true;
  }();
  if (size == 0 || !quiet) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const sessa::RequestLimits limits = Limits((data[0] & 2) != 0);
  (data[0] & 1) == 0 ? TryGenerate(bytes, limits) : TryScore(bytes, limits);
  return 0;
}
