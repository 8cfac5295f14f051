#include "loadtest/prompts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace sessa {
namespace {

constexpr int64_t kCharactersPerToken = 3;

std::vector<std::string> MakeSentences() {
  std::vector<std::string> sentences;
  for (const char* name : {"Mia", "Tom", "Anna", "Ivan", "Ruth", "Ben"}) {
    for (const char* place : {"kitchen", "garden", "yard", "tower", "barn", "bakery"}) {
      sentences.push_back(absl::StrCat(name, " went to the ", place, "."));
    }
    for (const char* thing : {"lamp", "key", "clock", "coin", "book"}) {
      sentences.push_back(absl::StrCat(name, " picked up the ", thing, "."));
    }
  }
  for (const char* filler :
       {"It was a quiet evening.", "The air smelled of rain.", "A dog sat on the wall."}) {
    sentences.push_back(filler);
  }
  return sentences;
}

}  // namespace

const std::vector<std::string>& BuiltInSentences() {
  static const auto& sentences = *new std::vector<std::string>(MakeSentences());
  return sentences;
}

void SetRandomIds(const v1::Model& model, int64_t count, Random* random, v1::GenerateRequest* request) {
  auto* ids = request->mutable_token_ids()->mutable_ids();
  ids->Reserve(static_cast<int>(count));
  const int64_t last = std::max(1, model.shape().vocab_size()) - 1;
  const bool can_avoid = last >= 3;
  while (ids->size() < count) {
    const auto id = static_cast<int32_t>(random->Integer(0, last));
    const bool special = (model.has_bos_token_id() && id == model.bos_token_id()) ||
                         (model.has_eos_token_id() && id == model.eos_token_id());
    if (!special || !can_avoid) ids->Add(id);
  }
}

void SetRandomText(const std::vector<std::string>& sentences, int64_t tokens, Random* random,
                   v1::GenerateRequest* request) {
  std::string& text = *request->mutable_text();
  const int64_t last = static_cast<int64_t>(sentences.size()) - 1;
  do {
    absl::StrAppend(&text, text.empty() ? "" : " ", sentences[random->Integer(0, last)]);
  } while (static_cast<int64_t>(text.size()) < tokens * kCharactersPerToken);
  text.push_back('\n');
}

}  // namespace sessa
