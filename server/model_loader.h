// From a checkpoint folder and the flags to a running core, and what clients may know of it.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/base/clock.h"
#include "runtime/tokenizer.h"
#include "scheduler/core.h"
#include "server/flags.h"
#include "server/request_parser.h"
#include "sessa/v1/inference.pb.h"

namespace sessa {

struct ServedModel {
  v1::Model description;
  RequestLimits limits;
  CoreOptions core_options;
  int64_t state_bytes = 0;                     // of all pages, when every one is touched
  std::string backend_note;                    // why "auto" passed over a backend; may be empty
  std::shared_ptr<const Tokenizer> tokenizer;  // may be null
  std::unique_ptr<Core> core;
};

// Loads everything and starts the core. Errors name the file, flag or device at fault. The clock outlives the
// core.
absl::StatusOr<ServedModel> LoadServedModel(const DaemonOptions& options, CoreHooks hooks,
                                            const Clock* clock);

// How a state memory of `bytes` is cut into pages. Every session with state needs an open page (compact
// state), so there is one for every four state pages, more where the batch needs them.
struct PageCounts {
  int32_t pages = 0, open_pages = 0;
};
PageCounts DividePages(int64_t bytes, const StateLayout& layout, int32_t max_batch_sessions);

}  // namespace sessa
