// The JSON header of a safetensors file. Internal to this folder.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/checkpoint/safetensors.h"

namespace sessa {

// The entries in the order of the header, their `bytes` still empty. Read as a stream of JSON events, so
// memory is linear in the header however it nests; only the form that the format prescribes is accepted:
//   {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {"k": "v"}}
// INVALID_ARGUMENT naming file, tensor and reason.
absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(absl::string_view file,
                                                                     absl::string_view header);

}  // namespace sessa
