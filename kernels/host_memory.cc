#include "kernels/host_memory.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace sessa {
namespace {

// Where one version of control groups keeps its figures.
struct GroupFiles {
  const char* mount;
  const char* limit;      // a file; "max", or a number beyond any memory, where there is none
  const char* used;       // a file; cached files are included
  const char* cached[2];  // keys of memory.stat; the group's children are included
};
constexpr GroupFiles kVersion2 = {
    "/sys/fs/cgroup", "memory.max", "memory.current", {"inactive_file", "active_file"}};
constexpr GroupFiles kVersion1 = {"/sys/fs/cgroup/memory",
                                  "memory.limit_in_bytes",
                                  "memory.usage_in_bytes",
                                  {"total_inactive_file", "total_active_file"}};

// The number that a file begins with.
std::optional<int64_t> NumberIn(const std::string& file) {
  std::ifstream in(file);
  int64_t value;
  if (!(in >> value)) return std::nullopt;
  return value;
}

// The number behind `key` in a file of lines "key number ...".
std::optional<int64_t> EntryOf(const std::string& file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string word;
    int64_t value;
    if (words >> word >> value && word == key) return value;
  }
  return std::nullopt;
}

// What the group in `folder` has left; nullopt when it has no limit.
std::optional<int64_t> RoomOf(const std::string& folder, const GroupFiles& files) {
  const std::optional<int64_t> limit = NumberIn(absl::StrCat(folder, "/", files.limit));
  const std::optional<int64_t> used = NumberIn(absl::StrCat(folder, "/", files.used));
  if (!limit || !used) return std::nullopt;
  int64_t needed = *used;
  for (const char* key : files.cached) needed -= EntryOf(folder + "/memory.stat", key).value_or(0);
  return std::max<int64_t>(0, *limit - std::max<int64_t>(0, needed));
}

void Lower(std::optional<int64_t>* least, const std::optional<int64_t>& value) {
  if (value) *least = std::min(least->value_or(*value), *value);
}

// Of the group `path` ("/a/b") and all above it: each limits the process. In a container the path may be the
// host's, of which only the top is mounted; folders that are not there say nothing.
std::optional<int64_t> RoomOfTree(const std::string& root, std::string path, const GroupFiles& files) {
  std::optional<int64_t> least;
  for (;;) {
    while (absl::EndsWith(path, "/")) path.pop_back();
    Lower(&least, RoomOf(absl::StrCat(root, files.mount, path), files));
    if (path.empty()) return least;
    path.resize(path.rfind('/'));
  }
}

}  // namespace

std::optional<int64_t> FreeHostMemory(const std::string& root) {
  std::optional<int64_t> least;
  if (const auto kilobytes = EntryOf(root + "/proc/meminfo", "MemAvailable:")) least = *kilobytes * 1024;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "id:controllers:path"
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3 || !absl::StartsWith(parts[2], "/")) continue;
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    if (parts[0] == "0") Lower(&least, RoomOfTree(root, parts[2], kVersion2));
    if (std::count(controllers.begin(), controllers.end(), "memory") > 0) {
      Lower(&least, RoomOfTree(root, parts[2], kVersion1));
    }
  }
  return least;
}

}  // namespace sessa
