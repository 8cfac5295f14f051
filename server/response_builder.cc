#include "server/response_builder.h"

namespace sessa {
namespace {

v1::Restore::Tier ToProto(Restore::Tier tier) {
  switch (tier) {
    case Restore::Tier::kNone:
      return v1::Restore::TIER_UNSPECIFIED;
    case Restore::Tier::kDevice:
      return v1::Restore::TIER_DEVICE;
    case Restore::Tier::kRecomputed:
      return v1::Restore::TIER_RECOMPUTED;
  }
  return v1::Restore::TIER_UNSPECIFIED;
}

void FillToken(int32_t token, float logprob, const Tokenizer* tokenizer, v1::TokenLogprob* out) {
  out->set_token_id(token);
  out->set_logprob(logprob);
  if (tokenizer == nullptr) return;
  const absl::string_view bytes = tokenizer->TokenBytes(token);
  out->set_bytes(bytes.data(), bytes.size());
}

}  // namespace

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration out;
  if (duration == absl::InfiniteDuration()) duration = absl::ZeroDuration();
  out.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  out.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return out;
}

google::protobuf::Timestamp ToProto(absl::Time time) {
  google::protobuf::Timestamp out;
  const int64_t ns = absl::ToUnixNanos(time);
  out.set_seconds(ns / 1'000'000'000);
  out.set_nanos(static_cast<int32_t>(ns % 1'000'000'000));
  return out;
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kEos:
      return v1::FINISH_REASON_EOS;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kContextFull:
      return v1::FINISH_REASON_CONTEXT_FULL;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kDeadline:
      return v1::FINISH_REASON_DEADLINE;
    case FinishReason::kDrained:
      return v1::FINISH_REASON_DRAINED;
    case FinishReason::kInterrupted:
      return v1::FINISH_REASON_INTERRUPTED;
    case FinishReason::kError:
      return v1::FINISH_REASON_ERROR;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void Fill(const StartedEvent& event, v1::Started* out) {
  out->set_session_id(event.session_id);
  out->set_request_id(event.request_id);
  out->set_seed(event.seed);
  out->set_position(event.position);
  out->set_prompt_tokens(event.prompt_tokens);
  out->set_cached_tokens(event.cached_tokens);
  v1::Restore* restore = out->mutable_restore();
  restore->set_tier(ToProto(event.restore.tier));
  restore->set_tokens_restored(event.restore.tokens_restored);
  restore->set_tokens_recomputed(event.restore.tokens_recomputed);
}

void Fill(const SampleFinishedEvent& event, v1::SampleFinished* out) {
  out->set_index(event.index);
  out->set_reason(ToProto(event.reason));
  out->set_stop_matched(event.stop_matched);
  if (event.stop_token >= 0) out->set_stop_token_id(event.stop_token);
}

void Fill(const FinishedEvent& event, v1::Usage* usage, v1::Timing* timing) {
  usage->set_prompt_tokens(event.prompt_tokens);
  usage->set_generated_tokens(event.generated_tokens);
  usage->set_cached_tokens(event.cached_tokens);
  usage->set_recomputed_tokens(event.recomputed_tokens);
  *timing->mutable_queue() = ToProto(event.queue_time);
  *timing->mutable_prefill() = ToProto(event.prefill_time);
  *timing->mutable_decode() = ToProto(event.decode_time);
}

void Fill(const OutputResult& result, const Tokenizer* tokenizer, v1::TokenLogprobs* out) {
  FillToken(result.token, result.logprob, tokenizer, out->mutable_token());
  for (const TokenLogprob& top : result.top) FillToken(top.token, top.logprob, tokenizer, out->add_top());
}

}  // namespace sessa
