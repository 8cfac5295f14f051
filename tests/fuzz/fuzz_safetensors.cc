// Any bytes as a safetensors file: refused, or tensors that cover the data.
#include "absl/strings/match.h"
#include "runtime/checkpoint/safetensors.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view contents(reinterpret_cast<const char*>(data), size);
  const auto entries = sessa::ParseSafetensors("file", contents);
  if (!entries.ok()) {
    FUZZ_CHECK(absl::StartsWith(entries.status().message(), "file: "));
    return 0;
  }
  size_t covered = 0;
  const std::string* previous = nullptr;
  for (const sessa::SafetensorsEntry& entry : *entries) {
    FUZZ_CHECK(previous == nullptr || *previous < entry.name);
    previous = &entry.name;
    FUZZ_CHECK(entry.bytes.empty() ||
               (entry.bytes.data() >= contents.data() + 8 &&
                entry.bytes.data() + entry.bytes.size() <= contents.data() + contents.size()));
    covered += entry.bytes.size();
    for (const int64_t dim : entry.dims) FUZZ_CHECK(dim >= 0);
  }
  FUZZ_CHECK(covered <= size - 8);
  return 0;
}
