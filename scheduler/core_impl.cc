#include "scheduler/core_impl.h"

#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/base/errors.h"
#include "runtime/base/thread_pool.h"

namespace sessa {

CoreImpl::CoreImpl(const CoreOptions& options, std::unique_ptr<Ops> ops,
                   std::shared_ptr<const Tokenizer> tokenizer, CoreHooks hooks, const Clock* clock,
                   CoreSeams seams)
    : options_(options),
      tokenizer_(std::move(tokenizer)),
      hooks_(std::move(hooks)),
      clock_(clock),
      text_queue_(seams.tokenizer_pool, options.tokenizer_threads),
      emitter_(&hooks_, clock),
      engine_(options, std::move(ops), &emitter_, &hooks_, clock, std::move(seams.make_session_id)) {
  emitter_.set_on_verdict(
      [this](TextVerdict verdict) { engine_.Post([this, verdict] { engine_.ApplyVerdict(verdict); }); });
}

CoreImpl::~CoreImpl() {
  engine_.Stop();
  if (engine_thread_.joinable()) {
    engine_thread_.join();
  } else {
    engine_.Run();  // only what is left to end
  }
  emitter_.Stop();
  if (emitter_thread_.joinable()) {
    emitter_thread_.join();
  } else {
    emitter_.Run();
  }
}

void CoreImpl::Start() {
  engine_thread_ = std::thread([this] { engine_.Run(); });
  emitter_thread_ = std::thread([this] { emitter_.Run(); });
}

absl::Status CoreImpl::Check(const TurnRequest& request) const {
  if (draining_.load(std::memory_order_relaxed) && !request.continues) {
    return MakeError(absl::StatusCode::kUnavailable, "the server is draining",
                     {.reason = "DRAINING", .retry_after = absl::Seconds(1)});
  }
  if (request.n < 1 || request.n > options_.max_batch_sessions) {
    return InvalidField("sampling.n", absl::StrCat("must lie in [1, ", options_.max_batch_sessions, "]"));
  }
  if (request.n > 1 && (request.keep_session || !request.session_id.empty())) {
    return InvalidField("sampling.n", "several samples are for requests that keep no session");
  }
  if (request.max_tokens < 0) return InvalidField("sampling.max_tokens", "must not be negative");
  const bool has_text = std::holds_alternative<std::string>(request.prompt);
  if (tokenizer_ == nullptr && has_text && !std::get<std::string>(request.prompt).empty()) {
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     "this model has no tokenizer: send prompt.token_ids",
                     {.reason = "NO_TOKENIZER", .field = "prompt.text"});
  }
  if (tokenizer_ == nullptr && !request.stop.empty()) {
    return MakeError(absl::StatusCode::kFailedPrecondition,
                     "this model has no tokenizer: send sampling.stop_token_ids",
                     {.reason = "NO_TOKENIZER", .field = "sampling.stop"});
  }
  return absl::OkStatus();
}

absl::Status CoreImpl::Submit(std::unique_ptr<TurnRequest> request) {
  if (absl::Status status = Check(*request); !status.ok()) return status;
  if (!engine_.TryReserveWaiting()) {
    return Shed("QUEUE_FULL", "too many turns are waiting", absl::Seconds(1));
  }
  Submission submission;
  submission.turn_id = next_turn_id_.fetch_add(1, std::memory_order_relaxed);
  submission.request = std::move(request);
  submission.submitted = clock_->Now();
  submission.stream = std::make_shared<TurnStream>(submission.turn_id, submission.request,
                                                   submission.submitted, tokenizer_.get());
  const uint64_t id = submission.turn_id;
  const std::shared_ptr<const TurnRequest> kept = submission.request;
  const auto prompt_unwanted = std::make_shared<std::atomic<bool>>(false);
  submission.prompt_unwanted = prompt_unwanted;
  engine_.Post(
      [this, submission = std::move(submission)]() mutable { engine_.Submit(std::move(submission)); });
  if (std::holds_alternative<std::string>(kept->prompt)) {
    const auto encode = [this, id, kept, prompt_unwanted] {
      if (*prompt_unwanted) return;
      const std::string& text = std::get<std::string>(kept->prompt);
      absl::StatusOr<std::vector<int32_t>> tokens = std::vector<int32_t>();
      if (!text.empty()) tokens = tokenizer_->Encode(text);
      engine_.Post(
          [this, id, tokens = std::move(tokens)]() mutable { engine_.PromptEncoded(id, std::move(tokens)); });
    };
    const auto bytes = static_cast<int64_t>(std::get<std::string>(kept->prompt).size());
    text_queue_.Post(TextUse::kTurn, bytes, encode);
  }
  return absl::OkStatus();
}

void CoreImpl::Cancel(const Principal& principal, const std::string& request_id, absl::Status error) {
  engine_.Post([this, name = principal.name, request_id, error = std::move(error), now = clock_->Now()] {
    engine_.Cancel(name, request_id, error, now);
  });
}

void CoreImpl::CancelOnSession(const Principal& principal, const std::string& session_id) {
  engine_.Post([this, name = principal.name, session_id, now = clock_->Now()] {
    engine_.CancelOnSession(name, session_id, now);
  });
}

void CoreImpl::SetPaused(const Principal& principal, const std::string& request_id, bool paused) {
  engine_.Post(
      [this, name = principal.name, request_id, paused] { engine_.SetPaused(name, request_id, paused); });
}

void CoreImpl::CreateSession(const Principal& principal,
                             std::function<void(absl::StatusOr<SessionInfo>)> done) {
  engine_.Post([this, name = principal.name, done = std::move(done)] { done(engine_.CreateSession(name)); });
}

void CoreImpl::GetSession(const Principal& principal, const std::string& session_id,
                          std::function<void(absl::StatusOr<SessionInfo>)> done) {
  engine_.Post([this, name = principal.name, session_id, done = std::move(done)] {
    done(engine_.GetSession(name, session_id));
  });
}

void CoreImpl::ListSessions(const Principal& principal, const std::string& after_id, int32_t limit,
                            std::function<void(std::vector<SessionInfo>)> done) {
  engine_.Post([this, name = principal.name, after_id, limit, done = std::move(done)] {
    done(engine_.ListSessions(name, after_id, limit));
  });
}

void CoreImpl::DeleteSession(const Principal& principal, const std::string& session_id,
                             std::function<void(absl::Status)> done) {
  engine_.Post([this, name = principal.name, session_id, done = std::move(done)] {
    engine_.DeleteSession(name, session_id, done);
  });
}

void CoreImpl::PostTextWork(TextUse use, int64_t bytes, Task work) {
  text_queue_.Post(use, bytes, std::move(work));
}

void CoreImpl::Drain(absl::Time deadline, std::function<void()> done) {
  draining_.store(true, std::memory_order_relaxed);
  engine_.Post([this, deadline, done = std::move(done)] { engine_.Drain(deadline, done); });
}

CoreStatus CoreImpl::Status() const { return engine_.Status(); }

namespace {

// The core with its own tokenizer pool, which is joined before the engine stops.
class ThreadedCore : public CoreImpl {
 public:
  ThreadedCore(const CoreOptions& options, std::unique_ptr<Ops> ops,
               std::shared_ptr<const Tokenizer> tokenizer, CoreHooks hooks, const Clock* clock,
               std::unique_ptr<ThreadPool> pool)
      : CoreImpl(options, std::move(ops), std::move(tokenizer), std::move(hooks), clock,
                 {pool.get(), RandomSessionId}),
        pool_(std::move(pool)) {
    Start();
  }

 private:
  const std::unique_ptr<ThreadPool> pool_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Core>> Core::Create(const CoreOptions& options, std::unique_ptr<Ops> ops,
                                                   std::shared_ptr<const Tokenizer> tokenizer,
                                                   CoreHooks hooks, const Clock* clock) {
  const auto invalid = [](absl::string_view what) { return absl::InvalidArgumentError(what); };
  if (options.state_pages < 1) return invalid("state_pages must be at least 1");
  if (options.open_pages < 1 && ops->layout().has_open_pages()) {
    return invalid("compact state needs at least one open page");
  }
  if (options.max_batch_tokens < 1) return invalid("max_batch_tokens must be at least 1");
  if (options.max_batch_sessions < 1) return invalid("max_batch_sessions must be at least 1");
  if (options.max_context < 1) return invalid("max_context must be at least 1");
  if (options.tokenizer_threads < 1) return invalid("tokenizer_threads must be at least 1");
  try {
    return std::make_unique<ThreadedCore>(options, std::move(ops), std::move(tokenizer), std::move(hooks),
                                          clock, std::make_unique<ThreadPool>(options.tokenizer_threads));
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("engine, emitter and tokenizer threads cannot be started: ", error.what()));
  }
}

}  // namespace sessa
