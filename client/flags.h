// The flags of sessactl and how they become requests.
#pragma once

#include <string>
#include <vector>

#include "absl/flags/declare.h"
#include "absl/status/statusor.h"
#include "client/client.h"

ABSL_DECLARE_FLAG(std::string, server);
ABSL_DECLARE_FLAG(bool, json);
ABSL_DECLARE_FLAG(std::string, session);
ABSL_DECLARE_FLAG(bool, stats);

namespace sessa {

// From the sampling flags; fields whose flags were not given stay unset. INVALID_ARGUMENT names the flag.
absl::StatusOr<v1::SamplingParams> SamplingFromFlags();

// --session, --keep, --request_id (made up when empty), --priority, --expected_position, --on_disconnect and
// the sampling flags. The prompt is the caller's.
absl::StatusOr<v1::GenerateRequest> GenerateRequestFromFlags();

// The prompt of the command line: --token_ids, --prompt_file ("-": standard input), or `words`, joined by
// spaces. With none of these it is standard input where that is not a terminal, and empty otherwise; a word
// that is empty is a prompt too. INVALID_ARGUMENT for more than one, and for what cannot be read.
struct Prompt {
  bool is_ids = false;
  v1::TokenIds ids;
  std::string text;
};
absl::StatusOr<Prompt> PromptFromFlags(const std::vector<std::string>& words);
bool PromptIsInFlags();  // --token_ids or --prompt_file is given

// Options with the deadline of --timeout, counted from now. Without the flag: 30 s for calls that the server
// answers at once, none for those that last as long as their work.
CallOptions QuickCall();
CallOptions LongCall(CallCanceller* canceller);  // may be null

}  // namespace sessa
