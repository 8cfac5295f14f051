#include "client/flag_help.h"

#include "absl/flags/reflection.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace sessa {

std::string FlagHelp(absl::string_view name) {
  constexpr size_t kIndent = 26, kColumns = 110;
  const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
  if (flag == nullptr) return "";
  std::string text = flag->Help();
  const std::string value = flag->DefaultValue();
  if (!value.empty() && value != "false" && value != "0" && value != "inf") {
    absl::StrAppend(&text, " (default ", value, ")");
  }
  std::string out = absl::StrFormat("  --%-*s", static_cast<int>(kIndent) - 4, name);
  size_t column = kIndent;
  for (absl::string_view word : absl::StrSplit(text, ' ')) {
    if (column + word.size() + 1 > kColumns) {
      absl::StrAppend(&out, "\n", std::string(kIndent, ' '));
      column = kIndent;
    }
    absl::StrAppend(&out, column == kIndent ? "" : " ", word);
    column += word.size() + 1;
  }
  return out + "\n";
}

bool WantsHelp(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    if (argument == "--") return false;
    if (argument == "--help" || argument == "-help" || argument == "-h") return true;
  }
  return false;
}

}  // namespace sessa
