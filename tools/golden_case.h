// A golden case: a small model and what the author's layer computes with it in float64. Format:
// docs/sessa-model.md, "Golden cases".
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/checkpoint/checkpoint.h"
#include "tools/sequence.h"

namespace sessa {

struct GoldenCase {
  std::string name;
  std::unique_ptr<Checkpoint> checkpoint;
  std::vector<int32_t> tokens;        // (T)
  SequenceResult expected;            // of tokens
  int32_t prompt_tokens = 0;          // the greedy continuation follows tokens[:prompt_tokens]
  std::vector<int32_t> greedy;        // never stops at EOS
  std::vector<float> greedy_margins;  // largest minus second largest logit of each greedy step
};

// Reads DIR/config.json, DIR/model.safetensors and DIR/expected.safetensors.
absl::StatusOr<GoldenCase> LoadGoldenCase(const std::string& dir);

// A prompt with one sound greedy answer (every margin is far above any backend's error).
struct RecallPrompt {
  std::vector<int32_t> prompt;  // BOS included
  std::vector<int32_t> answer;  // ends after the first newline
  std::string text;             // of the answer
};
absl::StatusOr<std::vector<RecallPrompt>> LoadRecallPrompts(const std::string& file);

}  // namespace sessa
