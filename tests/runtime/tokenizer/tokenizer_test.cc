// The SentencePiece plugin, opened as a program opens it.
#include "runtime/tokenizer.h"

#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/text/text_stream.h"
#include "tests/runtime/tokenizer/model_bytes.h"
#include "tests/temp_folder.h"

namespace sessa {
namespace {

using testing::HasSubstr;

constexpr char kModel[] = "models/sessa-recall-7m/tokenizer.model";

std::unique_ptr<Tokenizer> Recall() {
  auto tokenizer = LoadSentencePieceTokenizer(kModel);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::string ReadFile(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

TEST(TokenizerTest, EncodesThePromptsAsTheyWereForTraining) {
  const auto tokenizer = Recall();
  const auto prompts = nlohmann::json::parse(ReadFile("tests/golden/recall_prompts.json"));
  ASSERT_FALSE(prompts.empty());
  for (const auto& prompt : prompts) {
    const auto ids = tokenizer->Encode(prompt["prompt"].get<std::string>());
    ASSERT_TRUE(ids.ok()) << ids.status();
    std::vector<int32_t> with_bos = {1};
    with_bos.insert(with_bos.end(), ids->begin(), ids->end());
    EXPECT_EQ(with_bos, prompt["prompt_token_ids"].get<std::vector<int32_t>>());
  }
}

TEST(TokenizerTest, TokenTable) {
  const auto tokenizer = Recall();
  ASSERT_EQ(tokenizer->vocab_size(), 1024);
  for (const int32_t special : {0, 1, 2}) {
    EXPECT_TRUE(tokenizer->IsSpecial(special));
    EXPECT_EQ(tokenizer->TokenBytes(special), "");
  }
  EXPECT_EQ(tokenizer->TokenName(1), "<s>");
  EXPECT_EQ(tokenizer->TokenName(2), "</s>");
  for (int32_t byte = 0; byte < 256; ++byte) {  // byte pieces follow the special ones
    EXPECT_FALSE(tokenizer->IsSpecial(3 + byte));
    EXPECT_EQ(tokenizer->TokenBytes(3 + byte), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(tokenizer->TokenName(13), "<0x0A>");
  EXPECT_EQ(tokenizer->TokenName(261), "\xE2\x96\x81the");
  EXPECT_EQ(tokenizer->TokenBytes(261), " the");
}

TEST(TokenizerTest, IdsOfAPaddedVocabularyAppendNothing) {
  const auto tokenizer = Recall();
  for (const int32_t id : {-1, 1024, 2'000'000'000}) {
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
    EXPECT_EQ(tokenizer->TokenName(id), "");
    EXPECT_FALSE(tokenizer->IsSpecial(id));
  }
  EXPECT_TRUE(CheckTokenizerFits(*tokenizer, 1024, kModel).ok());
  EXPECT_TRUE(CheckTokenizerFits(*tokenizer, 1088, kModel).ok());
  EXPECT_EQ(CheckTokenizerFits(*tokenizer, 1023, kModel).message(),
            absl::StrCat(kModel, ": has 1024 tokens, the model only 1023"));
}

TEST(TokenizerTest, TextComesBack) {
  const auto tokenizer = Recall();
  for (const std::string& text : {std::string("Where is the clock?\nA:"), std::string(" two  spaces "),
                                  std::string("\xF0\x9F\x98\x80 \xC3\xA9"), std::string("tab\tnul\0x", 9),
                                  std::string(), std::string(20'000, 'a')}) {
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(DecodeTokens(*tokenizer, *ids, true), text);
  }
}

TEST(TokenizerTest, TextCannotSpellSpecialTokens) {
  const auto tokenizer = Recall();
  const auto ids = tokenizer->Encode("<s></s><unk>");
  ASSERT_TRUE(ids.ok()) << ids.status();
  for (const int32_t id : *ids) EXPECT_FALSE(tokenizer->IsSpecial(id));
}

TEST(TokenizerTest, TextThatIsNotUtf8IsRefused) {
  const auto tokenizer = Recall();
  for (const char* text : {"\xFF", "a\xC3", "\xED\xA0\x80", "\xC0\x80"}) {
    EXPECT_EQ(tokenizer->Encode(text).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(TokenizerTest, ManyThreadsAtOnce) {
  const auto tokenizer = Recall();
  const std::vector<int32_t> expected = *tokenizer->Encode("Tom has the ball.");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        const auto ids = tokenizer->Encode("Tom has the ball.");
        ASSERT_TRUE(ids.ok());
        ASSERT_EQ(*ids, expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TokenizerTest, LoadsFromManyThreadsMoreOftenThanThereAreNamespaces) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 10; ++i) ASSERT_EQ(Recall()->vocab_size(), 1024);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TokenizerTest, FilesThatAreNoModelAreRefusedByName) {
  EXPECT_EQ(LoadSentencePieceTokenizer("/nowhere/t.model").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(LoadSentencePieceTokenizer("/nowhere/t.model").status().message()),
              HasSubstr("/nowhere/t.model"));
  for (const char* file : {"/dev/null", "/tmp", "models/sessa-recall-7m/config.json"}) {
    const auto tokenizer = LoadSentencePieceTokenizer(file);
    ASSERT_FALSE(tokenizer.ok()) << file;
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(file));
  }
}

// A model with rewriting rules: capitals become small letters, a ligature two.
std::string ModelWithRules() {
  TestRules rules = {{"\xEF\xAC\x81", "fi"}};
  for (char c = 'A'; c <= 'C'; ++c) rules.emplace_back(std::string(1, c), std::string(1, c - 'A' + 'a'));
  TestModel model;
  model.charsmap = TestCharsmap(rules).Bytes();
  return model.Bytes();
}

TEST(TokenizerTest, RewritingRulesAreFollowed) {
  const auto tokenizer = OpenSentencePieceTokenizer("rules", ModelWithRules());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*(*tokenizer)->Encode("CAB \xEF\xAC\x81"), *(*tokenizer)->Encode("cab fi"));
}

TEST(TokenizerTest, NestedSymbolsUpToTheLimitAreFound) {
  TestModel model;
  for (size_t i = 1; i <= 64; ++i) model.symbols.push_back(std::string(i, '#'));
  const auto tokenizer = OpenSentencePieceTokenizer("symbols", model.Bytes());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Encode(std::string(200, '#'))->size(), 4);
}

// Each would make SentencePiece read where nothing is once a client's text has the letter A or #.
TEST(TokenizerTest, RulesThatLeadOutsideAreRefusedByFile) {
  const TempFolder folder;
  const auto expect_refused = [&](const TestModel& model, const std::string& reason) {
    const std::string file = folder.Write("hostile.model", model.Bytes());
    const absl::Status status = LoadSentencePieceTokenizer(file).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(file + ": not a SentencePiece model: "));
    EXPECT_THAT(std::string(status.message()), HasSubstr(reason));
  };
  TestCharsmap outside(TestRules{{"A", "a"}});
  outside.units[0] = 0x3fffff << 10 | 0x200;
  TestModel model;
  model.charsmap = outside.Bytes();
  expect_refused(model, "precompiled_charsmap: unit 0 leads to");
  model = {};
  for (size_t i = 1; i <= 100; ++i) model.symbols.push_back(std::string(i, '#'));
  expect_refused(model, "more than 64 user-defined symbols");
}

TEST(TokenizerTest, MostBytesPerToken) {
  TestModel model;
  model.symbols = {"\xE2\x96\x81\xE2\x96\x81"};  // two spaces
  const auto most = [&] {
    return OpenSentencePieceTokenizer("test", model.Bytes()).value()->MostBytesPerToken();
  };
  EXPECT_EQ(most(), 0);  // unknown characters run together
  model.byte_fallback = true;
  const auto tokenizer = OpenSentencePieceTokenizer("test", model.Bytes()).value();
  for (const char* text : {"a", "  ", "\xE2\x96\x81\xE2\x96\x81", "\xF0\x9F\x98\x80", "<0x41>"}) {
    EXPECT_LE(strlen(text), tokenizer->Encode(text)->size() * tokenizer->MostBytesPerToken()) << text;
  }
  EXPECT_EQ(Recall()->MostBytesPerToken(), 12);
}

// Damaged files load or do not; nothing aborts, whatever text comes.
void LoadDamaged(const std::string& model, size_t stride) {
  const std::string text = "Where is the CAB? \xEF\xAC\x81 \xEF\xAC\x82 AAAA";
  const auto load = [&](const std::string& bytes) {
    const auto tokenizer = OpenSentencePieceTokenizer("damaged", bytes);
    if (!tokenizer.ok()) return false;
    for (int32_t id = 0; id < (*tokenizer)->vocab_size(); ++id) (*tokenizer)->TokenBytes(id);
    EXPECT_TRUE((*tokenizer)->Encode(text).ok());
    return true;
  };
  int refused = 0;
  for (size_t size = 0; size < model.size(); size += 1 + size / 16) refused += !load(model.substr(0, size));
  EXPECT_GT(refused, 10);
  for (size_t at = 0; at < model.size(); at += stride) {
    std::string bytes = model;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << at % 8));
    load(bytes);
  }
}

TEST(TokenizerTest, DamagedModels) { LoadDamaged(ReadFile(kModel), 97); }

TEST(TokenizerTest, DamagedModelsWithRules) { LoadDamaged(ModelWithRules(), 3); }

}  // namespace
}  // namespace sessa
