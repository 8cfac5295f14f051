// Runs a fuzz target over the files of its corpus and, as cheap relatives of them, over their beginnings.
//
// usage: NAME_corpus FOLDER
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"

namespace {

constexpr size_t kAllBeginnings = 4096;  // of files up to this size

// In a buffer of exactly this size, so that a sanitizer sees a read beyond its end.
void RunOne(const std::string& bytes, size_t size) {
  const std::vector<uint8_t> input(bytes.begin(), bytes.begin() + size);
  LLVMFuzzerTestOneInput(input.data(), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1], error)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    std::ifstream in(file, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    std::printf("%s: %zu bytes\n", file.c_str(), bytes.size());
    std::fflush(stdout);
    RunOne(bytes, bytes.size());
    for (size_t size = 0; size < bytes.size() && bytes.size() <= kAllBeginnings; ++size) RunOne(bytes, size);
  }
  if (files.empty()) std::fprintf(stderr, "%s: no files\n", argv[1]);
  return files.empty() ? 1 : 0;
}
