#include <iostream>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/commands/command.h"
#include "client/commands/status_view.h"
#include "client/flags.h"
#include "client/json.h"
#include "client/proto_time.h"
#include "client/text.h"

ABSL_FLAG(absl::Duration, drain_timeout, absl::ZeroDuration(),
          "running turns may finish until then; 0: the server's own --drain_timeout");

namespace sessa {
namespace {

int Model(const CommandContext& context) {
  const auto model = context.client->GetModel(QuickCall());
  if (!model.ok()) return Fail(context, model.status());
  if (context.json) {
    std::cout << ToJson(*model, JsonStyle::kIndented) << std::flush;
    return kExitOk;
  }
  const v1::ModelShape& shape = model->shape();
  Table table;
  table.Row("model", model->name());
  table.Row("parameters", absl::StrCat(FormatCount(static_cast<double>(model->parameters())), " (",
                                       model->parameters(), "), ", model->weight_dtype()));
  table.Row("shape",
            absl::StrCat("vocabulary ", shape.vocab_size(), ", width ", shape.width(), ", layers ",
                         shape.layers(), ", heads ", shape.heads(), ", key/value heads ", shape.kv_heads()));
  table.Row("backend", model->backend_description());
  table.Row("state", absl::StrCat(model->state_dtype(), ", ", model->state_bytes_per_token(),
                                  " bytes a token, ", FormatBytes(model->state_bytes_per_page()),
                                  " a page of ", model->page_tokens(), " tokens"));
  table.Row("context", absl::StrCat(model->max_context(), " tokens, trained for ",
                                    model->trained_context() == 0 ? "an unknown length"
                                                                  : absl::StrCat(model->trained_context())));
  table.Row("tokenizer", model->has_tokenizer() ? "yes" : "none: takes and gives token ids");
  table.Row("BOS, EOS",
            absl::StrCat(model->has_bos_token_id() ? absl::StrCat(model->bos_token_id()) : "none", ", ",
                         model->has_eos_token_id() ? absl::StrCat(model->eos_token_id()) : "none"));
  table.Row("fingerprint", model->fingerprint());
  table.Row("server", absl::StrCat(model->server_version(), model->server_commit().empty() ? "" : ", commit ",
                                   model->server_commit()));
  table.Print();
  return kExitOk;
}

int Status(const CommandContext& context) {
  const auto status = context.client->GetStatus(QuickCall());
  if (!status.ok()) return Fail(context, status.status());
  if (context.json) {
    std::cout << ToJson(*status, JsonStyle::kIndented) << std::flush;
  } else {
    std::cout << StatusScreen(*status, {}) << std::flush;
  }
  return status->serving() ? kExitOk : kExitUnavailable;
}

int Drain(const CommandContext& context) {
  v1::DrainRequest request;
  request.set_request_id(RandomId());
  const absl::Duration timeout = absl::GetFlag(FLAGS_drain_timeout);
  if (timeout < absl::ZeroDuration()) return FailUsage(context, "--drain_timeout: at least 0");
  if (timeout > absl::ZeroDuration()) *request.mutable_timeout() = ToProto(timeout);
  const absl::Status status = context.client->Drain(request, LongCall(nullptr));
  if (!status.ok()) return Fail(context, status);
  std::cout << (context.json ? "{}" : "drained: nothing runs, new turns are refused") << std::endl;
  return kExitOk;
}

}  // namespace

std::vector<Command> ServerCommands() {
  return {{"model",
           "",
           "what is served, and what a session costs",
           "",
           "sessactl model --json",
           {},
           0,
           0,
           &Model},
          {"status",
           "",
           "the daemon's state at this moment",
           "Exits with 0 when it serves and 2 when it does not (starting, draining, failed, not reachable).",
           "sessactl status || echo 'not serving'",
           {},
           0,
           0,
           &Status},
          {"drain",
           "",
           "let the daemon finish its turns and take no new ones",
           "Answers once nothing runs. Cannot be undone; stop the daemon with SIGTERM afterwards.",
           "sessactl drain --drain_timeout=30s",
           {"drain_timeout"},
           0,
           0,
           &Drain}};
}

}  // namespace sessa
