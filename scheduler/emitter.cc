#include "scheduler/emitter.h"

#include <utility>

namespace sessa {

TurnStream::TurnStream(uint64_t turn_id, std::shared_ptr<const TurnRequest> request, absl::Time submitted,
                       const Tokenizer* tokenizer)
    : turn_id_(turn_id), request_(std::move(request)), submitted_(submitted) {
  const TextOptions options{request_->stop, request_->include_stop, request_->skip_special_tokens,
                            request_->sampling.min_tokens};
  for (int32_t i = 0; i < request_->n; ++i) samples_.push_back({.text = TextStream(tokenizer, options)});
}

void Emitter::Post(absl::Time time, std::vector<EmitterEvent>* events) {
  if (events->empty()) return;
  inbox_.Push({time, std::move(*events)});
  events->clear();
}

bool Emitter::RunOnce() {
  if (!inbox_.TakeAll(&batches_)) return false;
  for (EmitterBatch& batch : batches_) {
    for (EmitterEvent& event : batch.events) {
      TokenSink* const sink = event.stream == nullptr ? nullptr : event.stream->request().sink.get();
      if (auto* token = std::get_if<TokenOutput>(&event.what)) {
        Handle(*event.stream, *token, batch.time);
        continue;
      }
      if (auto* end = std::get_if<EndOfTokens>(&event.what)) {
        Handle(*event.stream, *end);
        continue;
      }
      event.stream == nullptr ? FlushAll() : FlushTurn(*event.stream);
      if (auto* progress = std::get_if<ProgressEvent>(&event.what)) {
        sink->OnProgress(*progress);
      } else if (auto* started = std::get_if<std::unique_ptr<StartedEvent>>(&event.what)) {
        event.stream->started_ = true;
        sink->OnStarted(std::move(**started));
      } else if (auto* logprobs = std::get_if<std::unique_ptr<PromptLogprobsEvent>>(&event.what)) {
        sink->OnPromptLogprobs(std::move(**logprobs));
      } else if (auto* finished = std::get_if<std::unique_ptr<SampleFinishedEvent>>(&event.what)) {
        Handle(*event.stream, **finished);
      } else if (auto* turn_end = std::get_if<std::unique_ptr<TurnEnd>>(&event.what)) {
        Handle(**turn_end);
      } else {
        std::get<std::unique_ptr<Call>>(event.what)->run();
      }
    }
  }
  FlushAll();
  batches_.clear();
  return true;
}

void Emitter::Run() {
  while (!stopping_.load(std::memory_order_acquire)) {
    if (!RunOnce()) inbox_.Wait(absl::InfiniteDuration());
  }
  RunOnce();
}

void Emitter::Stop() {
  stopping_.store(true, std::memory_order_release);
  inbox_.Wake();
}

void Emitter::Handle(TurnStream& stream, TokenOutput& token, absl::Time time) {
  TurnStream::SampleState& sample = stream.samples_[token.sample];
  if (sample.cut) return;
  if (stream.first_token_ == absl::InfiniteFuture()) stream.first_token_ = time;
  if (sample.tokens > 0 && hooks_->on_inter_token) hooks_->on_inter_token(time - sample.last_token);
  sample.last_token = time;
  ++sample.tokens;
  sample.next_position = token.position + 1;
  generated_tokens_.fetch_add(1, std::memory_order_relaxed);

  DeltaEvent& delta = sample.pending;
  if (delta.token_ids.empty()) {
    delta.index = token.sample;
    delta.position = token.position;
    pending_.emplace_back(&stream, token.sample);
  }
  const int32_t id = token.result.token;
  delta.token_ids.push_back(id);
  if (stream.request().sampling.top_logprobs >= 0) delta.logprobs.push_back(std::move(token.result));
  TextPiece piece = sample.text.Push(id);
  delta.text += piece.text;
  if (!piece.stop_matched) return;
  sample.stop_matched = *std::move(piece.stop_matched);
  sample.cut = true;
  on_verdict_({stream.turn_id_, token.sample, true, sample.tokens});
}

void Emitter::FlushSample(TurnStream& stream, int32_t sample) {
  DeltaEvent& delta = stream.samples_[sample].pending;
  if (delta.token_ids.empty()) return;
  stream.request().sink->OnDelta(std::move(delta));
  delta = DeltaEvent();
}

void Emitter::FlushTurn(TurnStream& stream) {
  std::erase_if(pending_, [&stream](const auto& entry) {
    if (entry.first == &stream) FlushSample(stream, entry.second);
    return entry.first == &stream;
  });
}

void Emitter::FlushAll() {
  for (const auto& [stream, sample] : pending_) FlushSample(*stream, sample);
  pending_.clear();
}

void Emitter::Handle(TurnStream& stream, const EndOfTokens& end) {
  if (stream.samples_[end.sample].cut) return;  // the verdict is on its way
  on_verdict_({stream.turn_id_, end.sample, false, 0});
}

void Emitter::Handle(TurnStream& stream, SampleFinishedEvent& event) {
  if (event.index == 0) stream.reason_ = event.reason;
  TurnStream::SampleState& sample = stream.samples_[event.index];
  event.stop_matched = std::move(sample.stop_matched);
  DeltaEvent rest;
  rest.text = sample.text.Finish();
  if (!rest.text.empty()) {
    rest.index = event.index;
    rest.position = sample.next_position;
    stream.request().sink->OnDelta(std::move(rest));
  }
  stream.request().sink->OnSampleFinished(std::move(event));
}

void Emitter::Handle(TurnEnd& end) {
  TurnStream& stream = *end.stream;
  if (hooks_->on_turn) {
    TurnReport report;
    report.code = end.status.code();
    report.reason = stream.reason_;
    report.started = stream.started_;
    report.finished = end.finished;
    if (stream.first_token_ != absl::InfiniteFuture()) {
      report.time_to_first_token = stream.first_token_ - stream.submitted_;
    }
    report.total = clock_->Now() - stream.submitted_;
    hooks_->on_turn(report);
  }
  TokenSink& sink = *stream.request().sink;
  if (end.status.ok()) {
    sink.OnFinished(end.finished);
  } else {
    sink.OnError(std::move(end.status));
  }
}

}  // namespace sessa
