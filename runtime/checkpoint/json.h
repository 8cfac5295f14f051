// JSON of small files (config.json, a shard index) as the loader wants it: strict, and never an exception.
// Internal to this folder.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace sessa {

// Parses `text`, which must be one JSON object without duplicate keys. Errors are INVALID_ARGUMENT and begin
// with `file`.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view file, absl::string_view text);

// A key or string from a file as it may stand in an error message: quoted, control characters escaped, cut.
std::string Quoted(absl::string_view text);

}  // namespace sessa
