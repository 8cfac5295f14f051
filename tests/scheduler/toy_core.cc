#include "tests/scheduler/toy_core.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/base/errors.h"

namespace sessa::toy {

ToyTokenizer::ToyTokenizer() : bytes_(kVocab) {
  for (int32_t id = 2; id < 54; ++id) bytes_[id] = std::string(1, static_cast<char>('a' + (id - 2) % 26));
  bytes_[54] = "\xc3";
  bytes_[55] = "\xa9";
  for (int32_t id = 56; id < kVocab; ++id) bytes_[id] = std::string(1, static_cast<char>('A' + id % 26));
}

absl::StatusOr<std::vector<int32_t>> ToyTokenizer::Encode(absl::string_view text) const {
  std::vector<int32_t> ids;
  for (char c : text) {
    if (c < 'a' || c > 'z') return InvalidField("prompt.text", "not lower case");
    ids.push_back(2 + (c - 'a'));
  }
  return ids;
}

std::unique_ptr<TurnRequest> Request(std::string id, std::vector<int32_t> prompt, int32_t max_tokens,
                                     std::shared_ptr<RecordingSink> sink) {
  auto request = std::make_unique<TurnRequest>();
  request->request_id = std::move(id);
  request->prompt = std::move(prompt);
  request->max_tokens = max_tokens;
  request->sampling.temperature = 0;
  request->sink = std::move(sink);
  return request;
}

ToyCore::ToyCore(const ToyConfig& config) : config_(config) {
  CoreOptions options;
  options.shape = Shape();
  options.bos_token = config.bos;
  options.eos_token = config.eos;
  options.max_context = config.max_context;
  options.max_batch_tokens = config.ops.max_rows;
  options.max_batch_sessions = config.max_batch_sessions;
  options.max_waiting = config.max_waiting;
  options.max_sessions = config.max_sessions;
  options.priority_aging = config.priority_aging;
  options.idle_state_ttl = config.idle_state_ttl;
  options.idle_session_ttl = config.idle_session_ttl;
  options.state_pages = config.state_pages;
  options.open_pages = config.ops.compact ? config.open_pages : 0;
  auto ops = std::make_unique<ToyOps>(config.ops, control_);
  ops->AllocateState(options.state_pages, options.open_pages).IgnoreError();
  CoreSeams seams;
  seams.tokenizer_pool = &pool_;
  seams.make_session_id = [next = 0]() mutable { return absl::StrFormat("%032x", ++next); };
  core_ = std::make_unique<CoreImpl>(options, std::move(ops), config.tokenizer, config.hooks, &clock_,
                                     std::move(seams));
}

void ToyCore::Settle() {
  for (bool moved = true; moved;) {
    moved = pool_.RunOne();
    moved = core_->engine().RunOnce() || moved;
    moved = core_->emitter().RunOnce() || moved;
  }
}

TurnRecord ToyCore::Run(std::unique_ptr<TurnRequest> request) {
  const auto sink = std::static_pointer_cast<RecordingSink>(request->sink);
  const absl::Status status = core_->Submit(std::move(request));
  if (!status.ok()) sink->OnError(status);
  Settle();
  return sink->record();
}

absl::StatusOr<SessionInfo> ToyCore::GetSession(const std::string& id) {
  absl::StatusOr<SessionInfo> info = absl::UnknownError("no answer");
  core_->GetSession({}, id, [&info](absl::StatusOr<SessionInfo> answer) { info = std::move(answer); });
  Settle();
  return info;
}

std::vector<int32_t> ToyCore::Expected(const std::vector<int32_t>& prefix, int32_t count) const {
  Oracle oracle(config_.ops.compact);
  for (int32_t token : prefix) oracle.Append(token);
  SampleParams greedy;
  greedy.temperature = 0;
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < count; ++i) {
    tokens.push_back(oracle.Next(&greedy, i).token);
    oracle.Append(tokens.back());
  }
  return tokens;
}

}  // namespace sessa::toy
