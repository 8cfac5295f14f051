// config.json and generation_config.json of a checkpoint folder. Meaning and defaults: docs/sessa-model.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/model_shape.h"

namespace sessa {

struct ModelConfig {
  ModelShape shape;
  int32_t max_positions = 0;  // tokens of context that the model was trained for
  std::optional<int32_t> bos_token, eos_token;
  DType torch_dtype = DType::kF32;  // what the checkpoint says; Checkpoint::weights_dtype is what it holds
  std::string tokenizer_file;       // name inside the folder; empty: the model takes and gives ids only
};

// What the model's authors recommend for sampling; unset: they say nothing.
struct GenerationDefaults {
  std::optional<int32_t> max_new_tokens;    // >= 1
  std::optional<float> temperature;         // [0, 100]
  std::optional<int32_t> top_k;             // >= 0; 0: off
  std::optional<float> top_p;               // (0, 1]
  std::optional<float> min_p;               // [0, 1]
  std::optional<float> repetition_penalty;  // (0, 100]
};

// Both: INVALID_ARGUMENT naming file, key and reason. `file` is used in messages only. Unknown keys are
// ignored, null is the same as an absent key.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view file, absl::string_view text);
absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(absl::string_view file, absl::string_view text);

// True when `name` names a file directly inside a folder: no separators, not "." or "..", no NUL.
bool IsPlainFileName(absl::string_view name);

}  // namespace sessa
