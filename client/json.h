// Messages as JSON: the canonical proto3 mapping with the .proto's field names, fields at their default
// included, so that a script finds every number. 64-bit numbers are strings there.
#pragma once

#include <string>

namespace google::protobuf {
class Message;
}

namespace sessa {

enum class JsonStyle { kLine, kIndented };
std::string ToJson(const google::protobuf::Message& message, JsonStyle style);

}  // namespace sessa
