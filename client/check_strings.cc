#include "client/check_strings.h"

#include <google/protobuf/message.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/text.h"
#include "runtime/base/errors.h"

namespace sessa {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

absl::Status CheckString(const std::string& path, const std::string& text) {
  const size_t at = FindNonUtf8(text);
  if (at == std::string::npos) return absl::OkStatus();
  return MakeError(absl::StatusCode::kInvalidArgument, absl::StrCat(path, ": not UTF-8 at byte ", at),
                   {.reason = "INVALID_FIELD", .field = path});
}

// `prefix`: the path of `message`, with a dot at its end unless it is empty.
absl::Status Check(const std::string& prefix, const Message& message) {
  const auto* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const bool is_text = field->type() == FieldDescriptor::TYPE_STRING;
    if (!is_text && field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      std::string path = prefix + field->name();
      if (field->is_repeated()) absl::StrAppend(&path, "[", i, "]");
      absl::Status status;
      if (field->is_repeated()) {
        status = is_text ? CheckString(path, reflection->GetRepeatedString(message, field, i))
                         : Check(path + ".", reflection->GetRepeatedMessage(message, field, i));
      } else {
        status = is_text ? CheckString(path, reflection->GetString(message, field))
                         : Check(path + ".", reflection->GetMessage(message, field));
      }
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckStrings(const Message& message) { return Check("", message); }

}  // namespace sessa
