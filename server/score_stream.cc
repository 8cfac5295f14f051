#include "server/score_stream.h"

#include <algorithm>
#include <utility>

#include "runtime/base/errors.h"
#include "server/response_builder.h"

namespace sessa {

using Reactor = grpc::ServerWriteReactor<v1::ScoreResponse>;

ScoreStream::ScoreStream(const StreamContext& server, grpc::CallbackServerContext* context, ScorePlan plan)
    : StreamWriter(context, server.metrics, server.slow_reader_timeout, Buffer()),
      server_(server),
      plan_(std::move(plan)) {}

Reactor* ScoreStream::Start(const StreamContext& server, grpc::CallbackServerContext* context,
                            ScorePlan plan) {
  const std::shared_ptr<ScoreStream> stream(new ScoreStream(server, context, std::move(plan)));
  if (!server.registry->Add(stream->plan_.principal, stream->plan_.request_id, stream)) {
    server.metrics->OnRefused(absl::StatusCode::kAlreadyExists);
    server.metrics->OnStreams(-1);
    return new RefusedStream<v1::ScoreResponse>(RequestIdInUse(stream->plan_.request_id));
  }
  stream->Own(stream);
  stream->TokenizeNext();
  return stream.get();
}

void ScoreStream::TokenizeNext() {
  while (ids_.size() <= plan_.choices.size()) {
    const Content& content = ids_.empty() ? plan_.prompt : plan_.choices[ids_.size() - 1];
    if (const auto* ids = std::get_if<std::vector<int32_t>>(&content)) {
      ids_.push_back(*ids);
      continue;
    }
    const std::string& text = std::get<std::string>(content);
    if (text.empty()) {
      ids_.emplace_back();
      continue;
    }
    server_.core->Tokenize(text, [self = shared_from_this()](absl::StatusOr<std::vector<int32_t>> ids) {
      if (!ids.ok()) return self->End(ids.status());
      self->ids_.push_back(*std::move(ids));
      self->TokenizeNext();
    });
    return;
  }
  SubmitNext();
}

void ScoreStream::EndCancelled() {
  End(MakeError(absl::StatusCode::kCancelled, "the call was cancelled", {.reason = "CANCELLED"}));
}

void ScoreStream::SubmitNext() {
  if (stopped_) return EndCancelled();
  auto turn = std::make_unique<TurnRequest>();
  turn->request_id = plan_.request_id;
  turn->principal = plan_.principal;
  turn->deadline = plan_.deadline;
  turn->session_id = plan_.session_id;
  turn->append = false;
  turn->priority = plan_.priority;
  turn->max_tokens = 0;
  turn->prompt_logprobs =
      std::max(1, plan_.top_logprobs);  // the most likely token tells whether it is greedy
  std::vector<int32_t> ids = ids_[0];
  if (!plan_.choices.empty()) ids.insert(ids.end(), ids_[choice_ + 1].begin(), ids_[choice_ + 1].end());
  turn->prompt = std::move(ids);
  turn->sink = shared_from_this();
  score_.Clear();
  score_.set_choice(static_cast<int32_t>(choice_));
  score_.set_is_greedy(true);
  if (absl::Status status = server_.core->Submit(std::move(turn)); !status.ok()) {
    server_.metrics->OnRefused(status.code());
    End(std::move(status));
  }
}

void ScoreStream::OnStarted(StartedEvent event) {
  scored_from_ = event.position;
  if (!plan_.choices.empty()) {
    scored_from_ += event.prompt_tokens - static_cast<int64_t>(ids_[choice_ + 1].size());
  }
  if (choice_ > 0) return;
  Push([&](Buffer& buffer) { Fill(event, buffer.Add()->mutable_started()); });
}

void ScoreStream::OnProgress(ProgressEvent event) {
  Push([&](Buffer& buffer) {
    v1::Progress* progress = buffer.Add()->mutable_progress();
    progress->set_tokens_done(event.tokens_done);
    progress->set_tokens_total(event.tokens_total);
  });
}

void ScoreStream::OnPromptLogprobs(PromptLogprobsEvent event) {
  // Position 0 has no log-probability: nothing predicts a session's first token.
  const int64_t first = std::max<int64_t>({scored_from_, 1, event.position});
  const auto skipped = static_cast<size_t>(first - event.position);
  if (skipped >= event.tokens.size()) return;
  Push([&](Buffer& buffer) {
    v1::ScoredTokens* out = buffer.Add()->mutable_tokens();
    out->set_choice(score_.choice());
    out->set_position(first);
    for (size_t i = skipped; i < event.tokens.size(); ++i) {
      OutputResult& token = event.tokens[i];
      score_.set_logprob(score_.logprob() + token.logprob);
      score_.set_tokens(score_.tokens() + 1);
      score_.set_is_greedy(score_.is_greedy() && !token.top.empty() && token.top[0].token == token.token);
      token.top.resize(std::min<size_t>(token.top.size(), plan_.top_logprobs));
      Fill(token, server_.tokenizer, out->add_tokens());
    }
  });
}

void ScoreStream::Sum(const FinishedEvent& event) {
  v1::Usage& usage = *finished_.mutable_usage();
  usage.set_prompt_tokens(usage.prompt_tokens() + event.prompt_tokens);
  usage.set_cached_tokens(usage.cached_tokens() + event.cached_tokens);
  usage.set_recomputed_tokens(usage.recomputed_tokens() + event.recomputed_tokens);
  queue_time_ += event.queue_time;
  prefill_time_ += event.prefill_time;
  decode_time_ += event.decode_time;
  if (choice_ == 0 || score_.logprob() > best_logprob_) {
    best_logprob_ = score_.logprob();
    finished_.set_best_choice(static_cast<int32_t>(choice_));
  }
}

void ScoreStream::OnFinished(FinishedEvent event) {
  if (stopped_) return EndCancelled();
  Sum(event);
  if (choice_ + 1 < plan_.choices.size()) {
    Push([&](Buffer& buffer) { *buffer.Add()->mutable_score() = score_; });
    ++choice_;
    return SubmitNext();
  }
  *finished_.mutable_timing()->mutable_queue() = ToProto(queue_time_);
  *finished_.mutable_timing()->mutable_prefill() = ToProto(prefill_time_);
  *finished_.mutable_timing()->mutable_decode() = ToProto(decode_time_);
  PushLast([&](Buffer& buffer) {
    *buffer.Add()->mutable_score() = score_;
    *buffer.Add()->mutable_finished() = finished_;
  });
}

void ScoreStream::OnError(absl::Status status) { End(std::move(status)); }

void ScoreStream::CancelTurn(absl::Status error) {
  stopped_ = true;
  server_.core->Cancel(plan_.principal, plan_.request_id, std::move(error));
}

void ScoreStream::PauseTurn(bool paused) {
  server_.core->SetPaused(plan_.principal, plan_.request_id, paused);
}

void ScoreStream::OnFinishing() { server_.registry->Release(plan_.principal, plan_.request_id, this); }

void ScoreStream::OnClosed() {
  stopped_ = true;
  server_.registry->Remove(plan_.principal, plan_.request_id, this);
}

}  // namespace sessa
