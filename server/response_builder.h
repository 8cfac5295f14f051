// A turn's events as messages of the API.
#pragma once

#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "runtime/tokenizer.h"
#include "scheduler/core.h"
#include "scheduler/request.h"
#include "sessa/v1/inference.pb.h"
#include "sessa/v1/sessions.pb.h"

namespace sessa {

google::protobuf::Duration ToProto(absl::Duration duration);
google::protobuf::Timestamp ToProto(absl::Time time);

v1::FinishReason ToProto(FinishReason reason);
void Fill(const StartedEvent& event, v1::Started* out);
void Fill(const SampleFinishedEvent& event, v1::SampleFinished* out);
void Fill(const FinishedEvent& event, v1::Usage* usage, v1::Timing* timing);

// `tokenizer` (may be null) gives the bytes of each token.
void Fill(const OutputResult& result, const Tokenizer* tokenizer, v1::TokenLogprobs* out);

}  // namespace sessa
