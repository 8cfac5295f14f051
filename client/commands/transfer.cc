#include <google/protobuf/io/zero_copy_stream_impl.h>
#include <google/protobuf/util/delimited_message_util.h>

#include <cstdio>
#include <fstream>
#include <iostream>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/flags.h"
#include "client/json.h"
#include "client/text.h"

ABSL_FLAG(bool, include_state, false, "export the state too, so that an import computes nothing; large");

namespace sessa {
namespace {

// The file: sessa.v1.SessionChunk messages, each with its length in front (protobuf's delimited form).
// Written beside its name first, so that a broken export leaves no file that looks whole.
int Export(const CommandContext& context) {
  v1::ExportSessionRequest request;
  request.set_session_id(context.args[0]);
  request.set_include_state(absl::GetFlag(FLAGS_include_state));
  const std::string partial = context.args[1] + ".partial";
  std::ofstream file(partial, std::ios::binary | std::ios::trunc);
  int64_t tokens = 0;
  absl::Status status = context.client->ExportSession(
      request, LongCall(nullptr), [&](const v1::SessionChunk& chunk) -> absl::Status {
        tokens += chunk.tokens().token_ids_size();
        if (google::protobuf::util::SerializeDelimitedToOstream(chunk, &file)) return absl::OkStatus();
        return absl::InvalidArgumentError(absl::StrCat("cannot write ", partial));
      });
  file.close();
  if (status.ok() && (file.fail() || std::rename(partial.c_str(), context.args[1].c_str()) != 0)) {
    status = absl::InvalidArgumentError(absl::StrCat("cannot write ", context.args[1]));
  }
  if (!status.ok()) {
    std::remove(partial.c_str());
    return Fail(context, status);
  }
  if (context.json) {
    std::cout << "{\"tokens\":" << tokens << "}" << std::endl;
  } else {
    std::cerr << tokens << " tokens in " << TerminalText(context.args[1]) << std::endl;
  }
  return kExitOk;
}

int Import(const CommandContext& context) {
  std::ifstream file(context.args[0], std::ios::binary);
  if (!file) return Fail(context, absl::InvalidArgumentError(absl::StrCat("cannot read ", context.args[0])));
  google::protobuf::io::IstreamInputStream in(&file);
  const std::string request_id = RandomId();
  const auto session = context.client->ImportSession(
      LongCall(nullptr), [&](v1::ImportSessionRequest* request) -> absl::StatusOr<bool> {
        bool at_end = false;
        request->set_request_id(request_id);
        if (google::protobuf::util::ParseDelimitedFromZeroCopyStream(request->mutable_chunk(), &in,
                                                                     &at_end)) {
          return true;
        }
        if (at_end) return false;
        return absl::InvalidArgumentError(
            absl::StrCat(context.args[0], " is not an exported session, or is cut off"));
      });
  if (!session.ok()) return Fail(context, session.status());
  std::cout << (context.json ? ToJson(*session, JsonStyle::kIndented)
                             : TerminalText(session->session_id()) + "\n")
            << std::flush;
  return kExitOk;
}

}  // namespace

std::vector<Command> TransferCommands() {
  return {{"sessions export",
           "ID FILE",
           "write a session to a file",
           "Its tokens, and with --include_state its state.",
           "sessactl sessions export ID mia.session",
           {"include_state"},
           2,
           2,
           &Export},
          {"sessions import",
           "FILE",
           "a new session from a file; prints its id",
           "For the model that it was exported from, or one with the same vocabulary if it holds no state.",
           "sessactl sessions import mia.session",
           {},
           1,
           1,
           &Import}};
}

}  // namespace sessa
