#include "runtime/checkpoint/json.h"

#include <set>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace sessa {
namespace {

using nlohmann::json;

// nlohmann keeps the last of several equal keys; this notes the first repetition.
class DuplicateKeys {
 public:
  bool OnEvent(json::parse_event_t event, const json& parsed) {
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
  bool found() const { return found_; }
  const std::string& key() const { return key_; }

 private:
  std::vector<std::set<std::string>> open_;  // keys of the objects that are still open
  bool found_ = false;
  std::string key_;
};

}  // namespace

absl::StatusOr<json> ParseJsonObject(absl::string_view file, absl::string_view text) {
  DuplicateKeys duplicates;
  json value = json::parse(
      text.begin(), text.end(),
      [&](int /*depth*/, json::parse_event_t event, json& parsed) {
        return duplicates.OnEvent(event, parsed);
      },
      /*allow_exceptions=*/false);
  if (value.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(file, ": not JSON"));
  if (duplicates.found()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": duplicate key ", Quoted(duplicates.key())));
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
