// Which tensors a Sessa checkpoint has, and where each goes. Internal to this folder.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernels/model_shape.h"

namespace sessa {

struct ExpectedTensor {
  std::string name;  // in the checkpoint
  std::vector<int64_t> dims;
  TensorView* view;  // filled by the loader
};

// Every tensor that a checkpoint of this shape has, and nothing else. Sizes tensors.layers; the views stay
// where they are as long as `tensors` is neither moved nor resized.
std::vector<ExpectedTensor> ExpectedTensors(const ModelShape& shape, ModelTensors& tensors);

// A buffer of the author's layers that checkpoints may carry: it is computed here, not read.
bool IsIgnoredBuffer(absl::string_view name);

}  // namespace sessa
