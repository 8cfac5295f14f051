#include "tests/scheduler/simulated_client.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "runtime/base/errors.h"
#include "runtime/text/text_stream.h"

namespace sessa::toy {
namespace {

size_t Index(std::mt19937_64& random, size_t size) {
  return std::uniform_int_distribution<size_t>(0, size - 1)(random);
}
bool Chance(std::mt19937_64& random, int32_t percent) {
  return std::uniform_int_distribution<int32_t>(1, 100)(random) <= percent;
}
bool Contains(const std::vector<int32_t>& tokens, int32_t token) {
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

}  // namespace

void SimulatedClients::Expect(bool truth, const std::string& promise) {
  if (!truth && result_.failure.empty()) result_.failure = promise;
}

// --- actions ---

void SimulatedClients::Submit(std::unique_ptr<TurnRequest> request) {
  auto turn = std::make_unique<ClientTurn>();
  turn->sink = std::make_shared<RecordingSink>(request->n);
  request->request_id = absl::StrCat("request", next_request_++);
  turn->request = std::make_shared<TurnRequest>(*request);
  request->sink = turn->sink;
  const bool bad_n = request->n > toy_.config().max_batch_sessions;
  const absl::Status status = toy_.core().Submit(std::move(request));
  ++result_.turns;
  Expect(!bad_n || !status.ok(), "too many samples are refused");
  if (status.ok()) {
    turns_.push_back(std::move(turn));
    return;
  }
  ++result_.refused;
  Expect(!turn->sink->over(), "a refused sink is never called");
  const ErrorDetail detail = GetErrorDetail(status);
  const bool shed = detail.reason == "QUEUE_FULL" && detail.retry_after &&
                    toy_.core().Status().waiting <= toy_.config().max_waiting;
  Expect(bad_n || shed || (draining_ && detail.reason == "DRAINING"),
         absl::StrCat("refused: ", status.message()));
}

std::vector<SimulatedClients::SessionKey> SimulatedClients::KnownSessions() const {
  std::vector<SessionKey> known;
  for (const auto& [key, session] : sessions_) known.push_back(key);
  for (const auto& turn : turns_) {
    const TurnRecord record = turn->sink->record();
    if (turn->request->keep_session && record.started) {
      known.push_back({turn->request->principal.name, record.started->session_id});
    }
  }
  return known;
}

void SimulatedClients::ChooseSession(std::mt19937_64& random, TurnRequest* request) {
  const std::vector<SessionKey> known = KnownSessions();
  if (known.empty()) return;
  const SessionKey& key = known[Index(random, known.size())];
  request->session_id = key.second;
  if (!Chance(random, 5)) request->principal.name = key.first;
}

std::vector<SimulatedClients::ClientTurn*> SimulatedClients::TurnsOn(const std::string& session_id) const {
  std::vector<ClientTurn*> on;
  for (const auto& turn : turns_) {
    const TurnRecord record = turn->sink->record();
    const bool same = turn->request->session_id == session_id ||
                      (record.started && record.started->session_id == session_id);
    if (same) on.push_back(turn.get());
  }
  return on;
}

SimulatedClients::ClientTurn* SimulatedClients::Some(std::mt19937_64& random) {
  return turns_.empty() ? nullptr : turns_[Index(random, turns_.size())].get();
}

void SimulatedClients::CancelSome(std::mt19937_64& random) {
  ClientTurn* turn = Some(random);
  if (turn == nullptr) return;
  const bool with_error = Chance(random, 30);
  turn->cancelled = true;
  turn->cancelled_with_error = turn->cancelled_with_error || with_error;
  toy_.core().Cancel(turn->request->principal, turn->request->request_id,
                     with_error ? absl::ResourceExhaustedError("slow reader") : absl::OkStatus());
}

void SimulatedClients::CancelOnSome(std::mt19937_64& random) {
  const std::vector<SessionKey> known = KnownSessions();
  if (known.empty()) return;
  const SessionKey key = known[Index(random, known.size())];
  for (ClientTurn* turn : TurnsOn(key.second)) turn->cancelled = true;
  toy_.core().CancelOnSession({key.first}, key.second);
}

void SimulatedClients::PauseSome(std::mt19937_64& random) {
  ClientTurn* turn = Some(random);
  if (turn == nullptr) return;
  turn->paused = !turn->paused;
  toy_.core().SetPaused(turn->request->principal, turn->request->request_id, turn->paused);
}

void SimulatedClients::UnpauseAll() {
  for (const auto& turn : turns_) {
    if (std::exchange(turn->paused, false))
      toy_.core().SetPaused(turn->request->principal, turn->request->request_id, false);
  }
}

void SimulatedClients::DeleteSome(std::mt19937_64& random) {
  const std::vector<SessionKey> known = KnownSessions();
  if (known.empty()) return;
  const SessionKey key = known[Index(random, known.size())];
  const bool was_deleted = sessions_[key].deleted;
  sessions_[key].deleted = true;
  for (ClientTurn* turn : TurnsOn(key.second)) turn->session_deleted = true;
  toy_.core().DeleteSession({key.first}, key.second, [this, was_deleted](absl::Status status) {
    Expect(status.ok() || was_deleted, "a session that is there can be deleted");
  });
}

void SimulatedClients::CreateSession(const std::string& principal) {
  toy_.core().CreateSession({principal}, [this, principal](absl::StatusOr<SessionInfo> info) {
    if (!info.ok()) {
      Expect(GetErrorDetail(info.status()).reason == "TOO_MANY_SESSIONS", "a session can be created");
      return;
    }
    Expect(info->position == 0 && !info->busy, "a new session is empty");
    sessions_[{principal, info->id}];
  });
}

void SimulatedClients::Drain(absl::Time deadline) {
  draining_ = true;
  toy_.core().Drain(deadline, [this] { drained_ = true; });
}

std::string SimulatedClients::DescribeLive() const {
  std::string text;
  for (const auto& turn : turns_) {
    const TurnRecord record = turn->sink->record();
    absl::StrAppend(&text, turn->request->request_id, record.started ? " (started, " : " (waiting, ",
                    record.samples[0].tokens.size(), " of ", turn->request->max_tokens, " tokens, n ",
                    turn->request->n, turn->paused ? ", paused) " : ") ");
  }
  return text;
}

// --- checks ---

void SimulatedClients::Poll() {
  for (size_t i = 0; i < turns_.size();) {
    if (!turns_[i]->sink->over()) {
      ++i;
      continue;
    }
    const std::unique_ptr<ClientTurn> turn = std::move(turns_[i]);
    turns_.erase(turns_.begin() + i);
    const size_t before = result_.failure.size();
    Verify(*turn, turn->sink->record());
    if (before == 0 && !result_.failure.empty()) {
      result_.failure = absl::StrCat(turn->request->request_id, ": ", result_.failure);
    }
  }
  Expect(!drained_ || turns_.empty(), "drained means that nothing runs");
}

void SimulatedClients::CheckSessions() {
  for (const auto& [key, session] : sessions_) {
    absl::StatusOr<SessionInfo> info = absl::UnknownError("no answer");
    toy_.core().GetSession({key.first}, key.second,
                           [&info](absl::StatusOr<SessionInfo> got) { info = std::move(got); });
    toy_.Settle();
    if (session.deleted) {
      Expect(info.status().code() == absl::StatusCode::kNotFound, "a deleted session is gone");
      continue;
    }
    Expect(info.ok(), "a kept session is there");
    if (!info.ok()) return;
    Expect(info->position == static_cast<int64_t>(session.tokens.size()),
           absl::StrCat("session ", key.second, " has ", info->position, " tokens, ", session.tokens.size(),
                        " were told"));
    Expect(!info->busy && info->cached_tokens <= info->position, "an idle session");
  }
}

std::vector<int32_t> SimulatedClients::FullPrompt(const TurnRequest& request, bool opens) const {
  std::vector<int32_t> ids;
  if (const auto* given = std::get_if<std::vector<int32_t>>(&request.prompt)) {
    ids = *given;
  } else {
    ids = toy_.tokenizer().Encode(std::get<std::string>(request.prompt)).value_or(ids);
  }
  const int32_t bos = toy_.config().bos;
  if (opens && bos >= 0 && (ids.empty() || ids[0] != bos)) ids.insert(ids.begin(), bos);
  return ids;
}

SampleParams SimulatedClients::FullParams(const TurnRequest& request, int32_t index) const {
  SampleParams params = request.sampling;
  params.sample_index = static_cast<uint32_t>(index);
  params.enders = request.stop_token_ids;
  if (!request.ignore_eos && toy_.config().eos >= 0) params.enders.push_back(toy_.config().eos);
  return params;
}

void SimulatedClients::Verify(const ClientTurn& turn, const TurnRecord& record) {
  const TurnRequest& request = *turn.request;
  if (!record.broken.empty()) return Expect(false, record.broken.front());
  for (const SampleRecord& sample : record.samples) {
    result_.tokens += static_cast<int64_t>(sample.tokens.size());
  }
  result_.cancelled += turn.cancelled && record.finished.has_value();
  if (record.error) VerifyError(turn, record);
  if (!record.started) {
    for (const SampleRecord& sample : record.samples)
      Expect(sample.tokens.empty(), "no tokens before the start");
    for (const SampleRecord& sample : record.samples) {
      if (sample.finished && sample.finished->reason == FinishReason::kDeadline) ++result_.expired;
    }
    return;
  }
  const std::string id = record.started->session_id;
  Expect(id.size() == 32 && (request.session_id.empty() || request.session_id == id), "the session's ID");
  const bool kept = request.keep_session || (!request.session_id.empty() && request.append);
  ClientSession temporary;
  if (!request.append) {  // it saw what the session had when it began, and leaves nothing
    temporary = sessions_[{request.principal.name, id}];
    Expect(record.started->position <= static_cast<int64_t>(temporary.tokens.size()),
           "tokens of the session");
    temporary.tokens.resize(record.started->position);
    ++result_.branches;
  }
  ClientSession& session = kept ? sessions_[{request.principal.name, id}] : temporary;
  session.deleted = session.deleted || turn.session_deleted;
  Expect(record.started->position == static_cast<int64_t>(session.tokens.size()), "position at the start");
  Expect(!request.expected_position || *request.expected_position == record.started->position,
         "expected_position was honoured");

  Oracle oracle(toy_.config().ops.compact);
  for (int32_t token : session.tokens) oracle.Append(token);
  const std::vector<int32_t> prompt = FullPrompt(request, session.tokens.empty());
  Expect(record.started->prompt_tokens == static_cast<int32_t>(prompt.size()), "prompt tokens");
  VerifyPrompt(request, record, oracle, prompt);
  for (int32_t token : prompt) oracle.Append(token);
  session.tokens = oracle.tokens();
  int32_t generated = 0;
  for (int32_t i = 0; i < request.n; ++i) {
    generated += static_cast<int32_t>(record.samples[i].tokens.size());
    VerifySample(turn, record, i, oracle);
  }
  for (int32_t token : record.samples[0].tokens) session.tokens.push_back(token);
  result_.forks += request.n > 1;
  if (!record.finished) return;
  Expect(record.finished->generated_tokens == generated, "tokens counted are tokens sent");
  Expect(record.finished->position == static_cast<int64_t>(session.tokens.size()), "position at the end");
}

void SimulatedClients::VerifyError(const ClientTurn& turn, const TurnRecord& record) {
  const std::string reason = GetErrorDetail(*record.error).reason;
  bool expected = false;
  switch (record.error->code()) {
    case absl::StatusCode::kInternal:
      expected = reason == "NONFINITE_LOGITS" && record.started.has_value();
      break;
    case absl::StatusCode::kUnavailable:
      expected = (device_may_fail_ && reason == "DEVICE_FAILED") || (draining_ && reason == "DRAINING");
      result_.faults += reason == "DEVICE_FAILED";
      break;
    case absl::StatusCode::kResourceExhausted:
      expected = turn.cancelled_with_error || reason == "TOO_MANY_SESSIONS";
      break;
    case absl::StatusCode::kAborted:
      expected = !record.started && (reason == "SESSION_BUSY" || reason == "POSITION_MISMATCH");
      break;
    case absl::StatusCode::kDeadlineExceeded:
      ++result_.expired;
      expected = !record.started && turn.request->deadline <= toy_.clock().Now();
      break;
    case absl::StatusCode::kFailedPrecondition:
      expected = !record.started && reason == "STATE_MEMORY_TOO_SMALL";
      break;
    case absl::StatusCode::kInvalidArgument:
      expected = !record.started && !GetErrorDetail(*record.error).field.empty();
      break;
    case absl::StatusCode::kNotFound:
      // Deleted, or another principal's: the two look the same.
      expected = !record.started && !turn.request->session_id.empty();
      break;
    default:
      break;
  }
  Expect(expected, absl::StrCat("unexpected end: ", record.error->ToString()));
}

void SimulatedClients::VerifyPrompt(const TurnRequest& request, const TurnRecord& record,
                                    const Oracle& before, const std::vector<int32_t>& prompt) {
  if (request.prompt_logprobs < 0)
    return Expect(record.prompt_logprobs.empty(), "no log-probabilities unasked");
  Oracle oracle = before;
  SampleParams params;
  for (size_t i = 0; i < prompt.size(); ++i) {
    // A turn that was cut short may have told less.
    if (i >= record.prompt_logprobs.size()) {
      const bool complete =
          record.finished && record.samples[0].finished->reason <= FinishReason::kContextFull;
      return Expect(!complete, "log-probabilities of the whole prompt");
    }
    const OutputResult& got = record.prompt_logprobs[i];
    if (oracle.size() == 0) {
      Expect(got.token == prompt[0] && std::isnan(got.logprob), "nothing predicts the first token");
    } else {
      const OutputResult expected = oracle.Next(&params, 0, prompt[i]);
      Expect(got.token == prompt[i] && got.logprob == expected.logprob, "log-probability of a prompt token");
    }
    oracle.Append(prompt[i]);
  }
  Expect(record.prompt_logprobs.size() == prompt.size(), "log-probabilities of the prompt only");
}

void SimulatedClients::VerifySample(const ClientTurn& turn, const TurnRecord& record, int32_t index,
                                    Oracle oracle) {
  const TurnRequest& request = *turn.request;
  const SampleRecord& sample = record.samples[index];
  const SampleParams params = FullParams(request, index);
  TextStream text(&toy_.tokenizer(),
                  {request.stop, request.include_stop, request.skip_special_tokens, params.min_tokens});
  std::string expected_text;
  bool matched = false;
  for (size_t i = 0; i < sample.tokens.size(); ++i) {
    const int32_t token = sample.tokens[i];
    const OutputResult expected = oracle.Next(&params, static_cast<int32_t>(i));
    if (!expected.finite || token != expected.token) {
      return Expect(false, absl::StrCat("sample ", index, " token ", i, " is ", token,
                                        ", the model alone gives ", expected.token));
    }
    if (params.top_logprobs >= 0) {
      Expect(sample.logprobs.size() == sample.tokens.size() && sample.logprobs[i].logprob == expected.logprob,
             "log-probability of a token");
    }
    Expect(!Contains(params.enders, token), "an ending token is not appended");
    Expect(!matched, "nothing follows a stop string");
    TextPiece piece = text.Push(token);
    expected_text += piece.text;
    matched = piece.stop_matched.has_value();
    if (matched && sample.finished)
      Expect(sample.finished->stop_matched == *piece.stop_matched, "the stop string");
    oracle.Append(token);
  }
  if (!sample.finished)
    return Expect(record.error.has_value(), "a sample without an end belongs to a failed turn");
  expected_text += text.Finish();
  Expect(sample.text == expected_text, "the text is that of the tokens");
  VerifyEnd(turn, sample, oracle, oracle.Next(&params, static_cast<int32_t>(sample.tokens.size())), matched);
}

void SimulatedClients::VerifyEnd(const ClientTurn& turn, const SampleRecord& sample, const Oracle& oracle,
                                 const OutputResult& next, bool stop_matched) {
  const TurnRequest& request = *turn.request;
  const SampleFinishedEvent& end = *sample.finished;
  const int32_t count = static_cast<int32_t>(sample.tokens.size());
  const int64_t limit = std::min<int64_t>(toy_.config().max_context, toy_.config().state_pages * kPageTokens);
  Expect(stop_matched == !end.stop_matched.empty(), "stop_matched");
  if (stop_matched) {
    ++result_.stop_strings;
    return Expect(end.reason == FinishReason::kStop && end.stop_token == -1, "a stop string ends with STOP");
  }
  switch (end.reason) {
    case FinishReason::kStop:
      return Expect(end.stop_token == next.token && Contains(request.stop_token_ids, next.token), "STOP");
    case FinishReason::kEos:
      return Expect(end.stop_token == toy_.config().eos && next.token == end.stop_token, "EOS");
    case FinishReason::kLength:
      return Expect(count == request.max_tokens, "LENGTH");
    case FinishReason::kContextFull:
      return Expect(oracle.size() == limit, "CONTEXT_FULL");
    case FinishReason::kCancelled:
      return Expect(turn.cancelled || turn.session_deleted, "CANCELLED");
    case FinishReason::kDeadline:
      ++result_.expired;
      return Expect(request.deadline <= toy_.clock().Now(), "DEADLINE");
    case FinishReason::kDrained:
      ++result_.drained;
      return Expect(draining_, "DRAINED");
    case FinishReason::kError:
      return Expect(request.n > 1, "ERROR beside a sample that failed");
    default:
      return Expect(false, "an end that nothing asks for");
  }
}

}  // namespace sessa::toy
