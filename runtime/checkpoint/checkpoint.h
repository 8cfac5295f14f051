// A checkpoint folder: config.json, model.safetensors (or shards named by model.safetensors.index.json), and
// generation_config.json and a tokenizer file if there are any. Format: docs/sessa-model.md, "Checkpoint
// folder".
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/model_shape.h"
#include "runtime/checkpoint/config.h"
#include "runtime/checkpoint/safetensors.h"

namespace sessa {

// Constant after loading. The tensors are views of mapped files and live as long as the checkpoint: backends
// pack them, so the checkpoint is dropped once the backend is made.
class Checkpoint {
 public:
  const std::string& dir() const { return dir_; }
  const ModelConfig& config() const { return config_; }
  const ModelShape& shape() const { return config_.shape; }
  const ModelTensors& tensors() const { return tensors_; }
  const GenerationDefaults& generation_defaults() const { return generation_defaults_; }
  std::string tokenizer_path() const;  // empty: the model has no tokenizer
  // The narrowest type that holds every stored weight exactly: the one that they all have, else kF32.
  DType weights_dtype() const { return weights_dtype_; }
  int64_t parameter_count() const { return parameter_count_; }  // a tied head is counted once
  // Of everything that decides what the model computes: shape, constants, and the tensors' types and bytes.
  // The same in every version of this program and however the checkpoint is cut into files; not
  // cryptographic.
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  friend class CheckpointLoader;
  Checkpoint() = default;

  std::string dir_;
  ModelConfig config_;
  ModelTensors tensors_;
  GenerationDefaults generation_defaults_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<std::unique_ptr<char[]>> aligned_copies_;  // of tensors that lie at odd addresses in their file
  DType weights_dtype_ = DType::kF32;
  int64_t parameter_count_ = 0;
  uint64_t fingerprint_ = 0;
};

// Reads and checks the whole folder; reads each tensor's bytes once (for the fingerprint). Errors name file,
// tensor and reason: NOT_FOUND and the like for files, INVALID_ARGUMENT for what they hold. Any thread.
absl::StatusOr<std::unique_ptr<Checkpoint>> LoadCheckpoint(const std::string& dir);

}  // namespace sessa
