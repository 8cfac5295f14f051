#include "runtime/checkpoint/json.h"

#include <set>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace sessa {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;

// nlohmann keeps the last of several equal keys; this notes the first repetition. What nests deeper than
// kMaxDepth is not kept, so that brackets cannot fill the memory.
class Watcher {
 public:
  bool OnEvent(int depth, json::parse_event_t event, const json& parsed) {
    too_deep_ |= depth > kMaxDepth;
    if (depth > kMaxDepth) return false;
    if (event == json::parse_event_t::object_start) open_.emplace_back();
    if (event == json::parse_event_t::object_end) open_.pop_back();
    if (event == json::parse_event_t::key) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!open_.back().insert(key).second && !found_) {
        found_ = true;
        key_ = key;
      }
    }
    return true;  // keep the value
  }
  bool too_deep() const { return too_deep_; }
  bool found() const { return found_; }
  const std::string& key() const { return key_; }

 private:
  std::vector<std::set<std::string>> open_;  // keys of the objects that are still open
  bool too_deep_ = false;
  bool found_ = false;
  std::string key_;
};

}  // namespace

absl::StatusOr<json> ParseJsonObject(absl::string_view file, absl::string_view text) {
  Watcher watcher;
  json value = json::parse(
      text.begin(), text.end(),
      [&](int depth, json::parse_event_t event, json& parsed) {
        return watcher.OnEvent(depth, event, parsed);
      },
      /*allow_exceptions=*/false);
  if (value.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(file, ": not JSON"));
  if (watcher.too_deep()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": nests deeper than ", kMaxDepth));
  }
  if (watcher.found()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": duplicate key ", Quoted(watcher.key())));
  }
  if (!value.is_object()) return absl::InvalidArgumentError(absl::StrCat(file, ": not a JSON object"));
  return value;
}

std::string Quoted(absl::string_view text) {
  constexpr size_t kShown = 200;
  if (text.size() <= kShown) return absl::StrCat("\"", absl::CHexEscape(text), "\"");
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kShown)), "...\"");
}

}  // namespace sessa
