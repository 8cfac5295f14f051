// Turns on their way in: admission and start.
#include <algorithm>
#include <cassert>

#include "absl/strings/str_cat.h"
#include "runtime/base/errors.h"
#include "scheduler/engine.h"

namespace sessa {
namespace {

absl::Status Aborted(absl::string_view reason, const std::string& session_id, absl::string_view message) {
  return MakeError(absl::StatusCode::kAborted, message,
                   {.reason = std::string(reason), .resource = absl::StrCat("session/", session_id)});
}

}  // namespace

void Engine::Submit(Submission submission) {
  auto owned = std::make_shared<Turn>();
  Turn* turn = owned.get();
  turn->id = submission.turn_id;
  turn->request = std::move(submission.request);
  turn->stream = std::move(submission.stream);
  turn->submitted = submission.submitted;
  turn->prompt_unwanted = std::move(submission.prompt_unwanted);
  turn->paused = turn->request->paused;
  turn->principal = principals_.Enter(turn->request->principal.name);
  turns_.emplace(turn->id, std::move(owned));
  const bool is_new =
      turns_by_request_.try_emplace({turn->request->principal.name, turn->request->request_id}, turn).second;
  absl::Status status;
  if (!failure_.ok()) {
    status = MakeError(absl::StatusCode::kUnavailable, "the device failed", {.reason = "DEVICE_FAILED"});
  } else if (draining_ && !turn->request->continues) {
    status = MakeError(absl::StatusCode::kUnavailable, "the server is draining", {.reason = "DRAINING"});
  } else if (!is_new) {
    status = MakeError(absl::StatusCode::kAlreadyExists, "a turn with this request_id is running",
                       {.reason = "REQUEST_ID_IN_USE", .field = "request_id"});
  } else {
    status = ResolveSession(turn);
  }
  if (!status.ok()) return FailTurn(turn, std::move(status));
  next_deadline_ = std::min(next_deadline_, turn->request->deadline);
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&turn->request->prompt)) PromptReady(turn, *ids);
}

absl::Status Engine::ResolveSession(Turn* turn) {
  const TurnRequest& request = *turn->request;
  if (!request.session_id.empty()) {
    Session* session = sessions_.Find(request.principal.name, request.session_id);
    if (session == nullptr || !session->on_deleted.empty()) return SessionNotFound(request.session_id);
    if (session->turn != nullptr) {
      return Aborted("SESSION_BUSY", request.session_id, "another turn of this session is running");
    }
    if (request.append) {
      turn->session = session;
    } else {
      Branch(turn, session);
    }
  } else if (request.keep_session) {
    absl::StatusOr<Session*> session = sessions_.Create(request.principal.name, clock_->Now());
    if (!session.ok()) return session.status();
    turn->session = *session;
    turn->created_session = true;
  } else {
    turn->own_session = std::make_unique<Session>();
    turn->session = turn->own_session.get();
    turn->session->id = sessions_.NewId();
  }
  turn->session->turn = turn;
  if (turn->session->kept) sessions_.SetBusy(turn->session);
  turn->start = turn->session->sequence.size();
  if (request.expected_position && *request.expected_position != turn->start) {
    return Aborted("POSITION_MISMATCH", request.session_id,
                   absl::StrCat("the session has ", turn->start, " tokens, expected_position is ",
                                *request.expected_position));
  }
  return absl::OkStatus();
}

void Engine::Branch(Turn* turn, Session* session) {
  turn->own_session = std::make_unique<Session>();
  turn->session = turn->own_session.get();
  turn->session->id = session->id;
  const Sequence& from = session->sequence;
  Sequence& to = turn->session->sequence;
  to.tokens = from.tokens;
  to.table = from.table.Fork(from.computed(), &arena_);
  to.lost_until = std::max(from.lost_until, from.computed());
  sessions_.SetBusy(session);
  sessions_.SetIdle(session, clock_->Now());  // it was used
}

void Engine::PromptEncoded(uint64_t turn_id, absl::StatusOr<std::vector<int32_t>> tokens) {
  const auto it = turns_.find(turn_id);
  if (it != turns_.end()) PromptReady(it->second.get(), std::move(tokens));
}

void Engine::PromptReady(Turn* turn, absl::StatusOr<std::vector<int32_t>> tokens) {
  const absl::Status status = tokens.ok() ? CheckPrompt(turn, *std::move(tokens)) : tokens.status();
  if (!status.ok()) return FailTurn(turn, status);
  turn->phase = TurnPhase::kWaiting;
}

absl::Status Engine::CheckPrompt(Turn* turn, std::vector<int32_t> tokens) {
  const bool opens = turn->start == 0;
  if (opens && tokens.empty()) return InvalidField("prompt", "an empty session needs a prompt");
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= options_.shape.vocab) {
      return InvalidField(
          absl::StrCat("prompt.token_ids[", i, "]"),
          absl::StrCat(tokens[i], " is not a token of this model (", options_.shape.vocab, ")"));
    }
  }
  if (opens && options_.bos_token >= 0 && tokens.front() != options_.bos_token) {
    tokens.insert(tokens.begin(), options_.bos_token);
  }
  const int64_t length = turn->start + static_cast<int64_t>(tokens.size());
  if (length > options_.max_context) {
    return MakeError(
        absl::StatusCode::kInvalidArgument,
        absl::StrCat("session and prompt have ", length, " tokens, the limit is ", options_.max_context),
        {.reason = "PROMPT_TOO_LONG", .field = "prompt"});
  }
  if (length > context_limit_) {
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     absl::StrCat("session and prompt have ", length,
                                  " tokens, the whole state memory holds ", context_limit_),
                     {.reason = "STATE_MEMORY_TOO_SMALL"});
  }
  // There must be a row to compute: the logits of the last token (or of the one before a prompt that is to be
  // scored) come from its step, even where its state is there already.
  Sequence& sequence = turn->session->sequence;
  if (length == sequence.computed()) sequence.TruncateState(length - 1, &arena_);
  if (turn->request->prompt_logprobs >= 0 && turn->start > 0 && sequence.computed() == turn->start) {
    sequence.TruncateState(turn->start - 1, &arena_);
  }
  turn->prompt = std::move(tokens);
  return absl::OkStatus();
}

// The turn's first place in the batch: from here on its prompt is part of the session.
void Engine::StartTurn(Turn* turn) {
  const TurnRequest& request = *turn->request;
  Sequence& sequence = turn->session->sequence;
  turn->phase = TurnPhase::kRunning;
  turn->started = clock_->Now();
  ++running_;
  ReleaseWaiting();
  turn->cached_tokens = turn->prefill_from = sequence.computed();
  turn->scored_until = turn->start + (turn->start == 0);
  sequence.tokens.insert(sequence.tokens.end(), turn->prompt.begin(), turn->prompt.end());
  turn->prompt_end = sequence.size();
  totals_.prompt_tokens += turn->prompt.size();
  totals_.cached_tokens += turn->cached_tokens;

  turn->prompt_params.top_logprobs = request.prompt_logprobs;
  turn->samples.resize(request.n);
  for (int32_t i = 0; i < request.n; ++i) {
    Sample& sample = turn->samples[i];
    sample.index = i;
    sample.params = request.sampling;
    sample.params.sample_index = static_cast<uint32_t>(i);
    sample.params.enders = request.stop_token_ids;
    if (!request.ignore_eos && options_.eos_token >= 0) sample.params.enders.push_back(options_.eos_token);
    sample.can_run_ahead = model_.ops().info().steps_in_flight > 1 && model_.ops().CanRunAhead(sample.params);
    const SampleParams& p = sample.params;
    if (p.repetition_penalty != 1.0f || p.presence_penalty != 0.0f || p.frequency_penalty != 0.0f) {
      for (int32_t token : sequence.tokens) ++sample.counts[token];
      sample.uses_counts = true;
    }
  }
  turn->samples[0].sequence = &sequence;
  turn->samples[0].ready = true;

  auto started = std::make_unique<StartedEvent>();
  started->session_id = turn->session->id;
  started->request_id = request.request_id;
  started->seed = request.sampling.seed;
  started->position = turn->start;
  started->prompt_tokens = static_cast<int32_t>(turn->prompt.size());
  started->cached_tokens = turn->cached_tokens;
  if (turn->start > 0) {
    const int64_t lost = sequence.to_recompute();
    started->restore = {lost > 0 ? Restore::Tier::kRecomputed : Restore::Tier::kDevice, turn->cached_tokens,
                        lost};
  }
  Emit(turn, std::move(started));
  if (request.prompt_logprobs >= 0 && turn->start == 0) {  // nothing predicts a session's first token
    auto first = std::make_unique<PromptLogprobsEvent>();
    first->tokens.push_back(
        {.token = sequence.tokens[0], .logprob = std::numeric_limits<float>::quiet_NaN()});
    Emit(turn, std::move(first));
  }
  if (request.n > 1 && ForkPoint(turn) == 0) MakeForks(turn);
}

// Samples share what was computed for the prompt; each computes its last token itself.
void Engine::MakeForks(Turn* turn) {
  const Sequence& leader = turn->session->sequence;
  for (size_t i = 1; i < turn->samples.size(); ++i) {
    Sample& sample = turn->samples[i];
    sample.own_sequence = std::make_unique<Sequence>();
    sample.own_sequence->tokens.assign(leader.tokens.begin(), leader.tokens.begin() + turn->prompt_end);
    sample.own_sequence->table = leader.table.Fork(ForkPoint(turn), &arena_);
    sample.sequence = sample.own_sequence.get();
    sample.ready = true;
  }
}

}  // namespace sessa
