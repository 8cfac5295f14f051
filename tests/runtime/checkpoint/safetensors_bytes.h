// Safetensors files for tests, right ones and wrong ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace sessa {

// Length, header, data: as the format has them.
inline std::string SafetensorsBytes(absl::string_view header, absl::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(uint64_t{header.size()} >> (8 * i)));
  return absl::StrCat(bytes, header, data);
}

struct TestTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> dims;
  std::string bytes;
};

// A valid file with these tensors, one after the other.
inline std::string SafetensorsBytes(const std::vector<TestTensor>& tensors) {
  std::string data;
  std::vector<std::string> entries;
  for (const TestTensor& t : tensors) {
    entries.push_back(absl::StrCat("\"", t.name, "\":{\"dtype\":\"", t.dtype, "\",\"shape\":[",
                                   absl::StrJoin(t.dims, ","), "],\"data_offsets\":[", data.size(), ",",
                                   data.size() + t.bytes.size(), "]}"));
    data += t.bytes;
  }
  return SafetensorsBytes(absl::StrCat("{", absl::StrJoin(entries, ","), "}"), data);
}

}  // namespace sessa
