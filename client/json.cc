#include "client/json.h"

#include <google/protobuf/util/json_util.h>

namespace sessa {

std::string ToJson(const google::protobuf::Message& message, JsonStyle style) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  options.add_whitespace = style == JsonStyle::kIndented;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  return status.ok() ? json : "{}";  // our messages hold nothing (Any, invalid times) that cannot be printed
}

}  // namespace sessa
