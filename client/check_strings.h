// What protobuf demands of a message's texts.
#pragma once

#include "absl/status/status.h"

namespace google::protobuf {
class Message;
}

namespace sessa {

// INVALID_ARGUMENT "FIELD: not UTF-8 at byte N" (from 0) for a `string` field, nested and repeated ones
// included, that is not UTF-8. Such a message would be sent, but the server cannot parse it, and gRPC answers
// UNIMPLEMENTED without a word about why. Thread-safe.
absl::Status CheckStrings(const google::protobuf::Message& message);

}  // namespace sessa
