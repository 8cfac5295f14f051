#include "server/score_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/base/errors.h"
#include "server/response_builder.h"

namespace sessa {

using Reactor = grpc::ServerWriteReactor<v1::ScoreResponse>;

namespace {

absl::Status Cancelled() {
  return MakeError(absl::StatusCode::kCancelled, "the call was cancelled", {.reason = "CANCELLED"});
}

// Of a turn that has not computed all of its choice.
absl::Status EndedEarly(FinishReason reason) {
  switch (reason) {
    case FinishReason::kDeadline:
      return MakeError(absl::StatusCode::kDeadlineExceeded,
                       "the deadline passed before everything was scored", {.reason = "DEADLINE_EXCEEDED"});
    case FinishReason::kDrained:
      return MakeError(absl::StatusCode::kUnavailable, "the server drains: not everything was scored",
                       {.reason = "DRAINING", .retry_after = absl::Seconds(1)});
    case FinishReason::kCancelled:
      return Cancelled();
    default:
      return absl::InternalError("a turn that scores ended early");
  }
}

}  // namespace

ScoreStream::ScoreStream(const StreamContext& server, grpc::CallbackServerContext* context, ScorePlan plan,
                         std::unique_ptr<TextBudget::Share> share)
    : StreamWriter(context, server.metrics, server.slow_reader_timeout, Buffer()),
      server_(server),
      plan_(std::move(plan)),
      share_(std::move(share)) {}

Reactor* ScoreStream::Start(const StreamContext& server, grpc::CallbackServerContext* context, ScorePlan plan,
                            std::unique_ptr<TextBudget::Share> share) {
  const std::shared_ptr<ScoreStream> stream(
      new ScoreStream(server, context, std::move(plan), std::move(share)));
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
    const auto encode = [self = shared_from_this(), &text] {
      if (self->stopped_) return self->EndCancelled();
      absl::StatusOr<std::vector<int32_t>> ids = self->server_.tokenizer->Encode(text);
      if (!ids.ok()) return self->Refuse(ids.status());
      self->ids_.push_back(*std::move(ids));
      self->TokenizeNext();
    };
    return server_.core->PostTextWork(TextUse::kTurn, static_cast<int64_t>(text.size()), encode);
  }
  share_.reset();
  FindSession();
}

void ScoreStream::FindSession() {
  if (plan_.session_id.empty()) return Begin(0);
  server_.core->GetSession(plan_.principal, plan_.session_id,
                           [self = shared_from_this()](absl::StatusOr<SessionInfo> session) {
                             if (!session.ok()) return self->Refuse(session.status());
                             self->Begin(session->position);
                           });
}

void ScoreStream::Begin(int64_t position) {
  start_ = position;
  if (absl::Status status = CheckLengths(); !status.ok()) return Refuse(std::move(status));
  SubmitNext();
}

// The core checks each turn, too, but knows nothing of choices, and only when the ones before were computed.
absl::Status ScoreStream::CheckLengths() const {
  const std::vector<int32_t>& prompt = ids_[0];
  const std::vector<int32_t> none;
  for (size_t i = 0; i < std::max<size_t>(1, plan_.choices.size()); ++i) {
    const std::vector<int32_t>& choice = plan_.choices.empty() ? none : ids_[i + 1];
    const std::vector<int32_t>& first = prompt.empty() ? choice : prompt;
    const bool adds_bos = start_ == 0 && server_.limits->bos_token >= 0 && !first.empty() &&
                          first.front() != server_.limits->bos_token;
    const int64_t length = start_ + adds_bos + static_cast<int64_t>(prompt.size() + choice.size());
    if (length <= server_.limits->max_context) continue;
    const std::string field = plan_.choices.empty() ? "prompt" : absl::StrCat("choices[", i, "]");
    return MakeError(absl::StatusCode::kInvalidArgument,
                     absl::StrCat(field, ": with what comes before it there are ", length,
                                  " tokens, the limit is ", server_.limits->max_context),
                     {.reason = "PROMPT_TOO_LONG", .field = field});
  }
  return absl::OkStatus();
}

void ScoreStream::Refuse(absl::Status status) {
  server_.metrics->OnRefused(status.code());
  End(std::move(status));
}

void ScoreStream::EndCancelled() { End(Cancelled()); }

void ScoreStream::SubmitNext() {
  auto turn = std::make_unique<TurnRequest>();
  turn->request_id = plan_.request_id;
  turn->principal = plan_.principal;
  turn->deadline = plan_.deadline;
  turn->session_id = plan_.session_id;
  turn->append = false;
  // All choices follow the same tokens, or the call is aborted.
  if (!plan_.session_id.empty()) turn->expected_position = start_;
  turn->continues = choice_ > 0;
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
  absl::Status refused;
  bool stopped = false;
  {
    // A cancel or a pause comes before the turn or after it, never in between: nobody would end a turn that
    // the client has left, and one that begins paused would wait for ever.
    MutexLock lock(&hold_mutex_);
    stopped = stopped_;
    turn->paused = held_;
    if (!stopped) refused = server_.core->Submit(std::move(turn));
  }
  if (stopped) return EndCancelled();
  if (!refused.ok()) Refuse(std::move(refused));
}

void ScoreStream::OnStarted(StartedEvent event) {
  scored_from_ = event.position;
  if (!plan_.choices.empty()) {
    scored_from_ += event.prompt_tokens - static_cast<int64_t>(ids_[choice_ + 1].size());
  }
  if (choice_ > 0) return;
  v1::ScoreResponse message;
  Fill(event, message.mutable_started());
  Push([&](Buffer& buffer) {
    context()->AddInitialMetadata("sessa-session-id", event.session_id);
    buffer.Add(std::move(message));
  });
}

void ScoreStream::OnProgress(ProgressEvent event) {
  v1::ScoreResponse message;
  message.mutable_progress()->set_tokens_done(event.tokens_done);
  message.mutable_progress()->set_tokens_total(event.tokens_total);
  Push([&](Buffer& buffer) { buffer.Add(std::move(message)); });
}

void ScoreStream::OnPromptLogprobs(PromptLogprobsEvent event) {
  // Position 0 has no log-probability: nothing predicts a session's first token.
  const int64_t first = std::max<int64_t>({scored_from_, 1, event.position});
  const auto skipped = static_cast<size_t>(first - event.position);
  if (skipped >= event.tokens.size()) return;
  v1::ScoreResponse message;
  v1::ScoredTokens* out = message.mutable_tokens();
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
  Push([&](Buffer& buffer) { buffer.Add(std::move(message)); });
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
  if (reason_ != FinishReason::kLength) return End(EndedEarly(reason_));
  Sum(event);
  v1::ScoreResponse score;
  *score.mutable_score() = score_;
  if (choice_ + 1 < plan_.choices.size()) {
    Push([&](Buffer& buffer) { buffer.Add(std::move(score)); });
    ++choice_;
    return SubmitNext();
  }
  *finished_.mutable_timing()->mutable_queue() = ToProto(queue_time_);
  *finished_.mutable_timing()->mutable_prefill() = ToProto(prefill_time_);
  *finished_.mutable_timing()->mutable_decode() = ToProto(decode_time_);
  v1::ScoreResponse finished;
  *finished.mutable_finished() = finished_;
  PushLast([&](Buffer& buffer) {
    buffer.Add(std::move(score));
    buffer.Add(std::move(finished));
  });
}

void ScoreStream::OnError(absl::Status status) { End(std::move(status)); }

void ScoreStream::CancelTurn(absl::Status error) {
  MutexLock lock(&hold_mutex_);
  stopped_ = true;
  server_.core->Cancel(plan_.principal, plan_.request_id, std::move(error));
}

void ScoreStream::PauseTurn(bool paused) {
  MutexLock lock(&hold_mutex_);
  held_ = paused;
  server_.core->SetPaused(plan_.principal, plan_.request_id, paused);
}

void ScoreStream::OnFinishing() { server_.registry->Release(plan_.principal, plan_.request_id, this); }

void ScoreStream::OnClosed() { server_.registry->Remove(plan_.principal, plan_.request_id, this); }

}  // namespace sessa
