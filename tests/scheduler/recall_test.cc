// The shipped model's recall prompts through the whole core on the CPU backend, all at once in little memory:
// in one turn, split over two turns at any token or as text before a newline, and beside strangers.
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/backend.h"
#include "runtime/checkpoint/checkpoint.h"
#include "scheduler/core.h"
#include "tests/scheduler/recording_sink.h"

namespace sessa {
namespace {

constexpr char kModel[] = "models/sessa-recall-7m";

struct RecallPrompt {
  std::string text;
  std::vector<int32_t> tokens;  // BOS included
  std::vector<int32_t> answer;  // ends with the newline
};

std::vector<RecallPrompt> LoadPrompts() {
  std::vector<RecallPrompt> prompts;
  std::ifstream file("tests/golden/recall_prompts.json");
  for (const auto& json : nlohmann::json::parse(file)) {
    prompts.push_back({json["prompt"], json["prompt_token_ids"], json["greedy_token_ids"]});
  }
  return prompts;
}

class RecallTest : public testing::Test {
 protected:
  RecallTest() {
    const auto checkpoint = LoadCheckpoint(kModel).value();
    OpsOptions ops_options;
    ops_options.max_rows = 256;
    ops_options.max_segments = 16;
    ops_options.state_dtype = StateDtype::kCompact;
    ops_options.cpu_threads = 2;
    auto ops = CreateBackend("cpu", checkpoint->shape(), checkpoint->tensors(), ops_options).value().ops;
    CoreOptions options;
    options.shape = checkpoint->shape();
    options.bos_token = checkpoint->config().bos_token.value_or(-1);
    options.eos_token = checkpoint->config().eos_token.value_or(-1);
    options.max_batch_tokens = ops_options.max_rows;
    options.max_batch_sessions = ops_options.max_segments;
    options.state_pages = 50;  // five of the longest prompts
    options.open_pages = 16;
    EXPECT_TRUE(ops->AllocateState(options.state_pages, options.open_pages).ok());
    core_ = Core::Create(options, std::move(ops),
                         LoadSentencePieceTokenizer(checkpoint->tokenizer_path()).value(), {}, Clock::Real())
                .value();
  }

  using Prompt = std::variant<std::string, std::vector<int32_t>>;
  std::shared_ptr<RecordingSink> Submit(Prompt prompt, int32_t max_tokens, std::string session = "",
                                        float temperature = 0) {
    auto request = std::make_unique<TurnRequest>();
    request->request_id = absl::StrCat("request", next_request_++);
    request->prompt = std::move(prompt);
    request->max_tokens = max_tokens;
    request->session_id = std::move(session);
    request->keep_session = request->session_id.empty();
    request->sampling.temperature = temperature;
    auto sink = std::make_shared<RecordingSink>();
    request->sink = sink;
    EXPECT_TRUE(core_->Submit(std::move(request)).ok());
    return sink;
  }
  static std::string SessionOf(const RecordingSink& sink) { return sink.record().started->session_id; }
  int32_t AnswerTokens(const RecallPrompt& prompt) { return static_cast<int32_t>(prompt.answer.size()); }

  // First turns and then second ones, each kind all at once.
  void ExpectAnswers(const std::vector<std::pair<Prompt, Prompt>>& parts) {
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (const auto& [first, second] : parts) sinks.push_back(Submit(first, 0));
    for (size_t i = 0; i < parts.size(); ++i) {
      sinks[i]->Wait();
      sinks[i] = Submit(parts[i].second, AnswerTokens(prompts_[i]), SessionOf(*sinks[i]));
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      sinks[i]->Wait();
      EXPECT_EQ(sinks[i]->record().samples[0].tokens, prompts_[i].answer) << "prompt " << i;
    }
  }

  const std::vector<RecallPrompt> prompts_ = LoadPrompts();
  std::mt19937 random_{1};
  int32_t next_request_ = 0;
  std::unique_ptr<Core> core_;
};

TEST_F(RecallTest, InOneTurnBesideStrangers) {
  std::vector<std::shared_ptr<RecordingSink>> sinks, strangers;
  for (const RecallPrompt& prompt : prompts_) {
    std::vector<int32_t> noise(1 + random_() % 100);
    for (int32_t& token : noise) token = static_cast<int32_t>(3 + random_() % 900);
    strangers.push_back(Submit(noise, 20, "", 1.0f));
    sinks.push_back(Submit(prompt.tokens, AnswerTokens(prompt)));
  }
  for (size_t i = 0; i < prompts_.size(); ++i) {
    sinks[i]->Wait();
    EXPECT_EQ(sinks[i]->record().samples[0].tokens, prompts_[i].answer) << "prompt " << i;
    strangers[i]->Wait();
  }
}

TEST_F(RecallTest, SplitAtAnyToken) {
  std::vector<std::pair<Prompt, Prompt>> parts;
  for (const RecallPrompt& prompt : prompts_) {
    const auto cut = prompt.tokens.begin() + 1 + random_() % (prompt.tokens.size() - 1);
    parts.emplace_back(std::vector<int32_t>(prompt.tokens.begin(), cut),
                       std::vector<int32_t>(cut, prompt.tokens.end()));
  }
  ExpectAnswers(parts);
  EXPECT_GT(core_->Status().recomputed_tokens, 0) << "there is too little memory for all";
}

TEST_F(RecallTest, SplitAsTextBeforeANewline) {
  std::vector<std::pair<Prompt, Prompt>> parts;
  for (const RecallPrompt& prompt : prompts_) {
    std::vector<size_t> newlines;
    for (size_t at = prompt.text.find('\n'); at != std::string::npos; at = prompt.text.find('\n', at + 1)) {
      newlines.push_back(at);
    }
    const size_t cut = newlines[random_() % newlines.size()];
    parts.emplace_back(prompt.text.substr(0, cut), prompt.text.substr(cut));
  }
  ExpectAnswers(parts);
}

}  // namespace
}  // namespace sessa
