#include "server/model_loader.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/backend.h"
#include "runtime/checkpoint/checkpoint.h"
#include "server/version.h"

namespace sessa {
namespace {

const char* DtypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "float32";
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
  }
  return "";
}

StateDtype ChooseStateDtype(const std::string& flag, DType weights) {
  if (flag == "f32") return StateDtype::kF32;
  if (flag == "compact") return StateDtype::kCompact;
  return weights == DType::kBF16 ? StateDtype::kCompact : StateDtype::kF32;
}

std::string ModelName(const std::string& dir) {
  std::filesystem::path path = std::filesystem::path(dir).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // a trailing slash
  return path.filename().string();
}

absl::StatusOr<int64_t> MaxContext(const DaemonOptions& options, const ModelConfig& config) {
  if (options.max_context > 0) return options.max_context;
  if (config.max_positions > 0) return std::min<int64_t>(kMostContext, config.max_positions);
  return absl::InvalidArgumentError(
      "--max_context: this model does not say for how many tokens it was made; give it");
}

absl::Status WithFlag(absl::string_view flag, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("--", flag, ": ", status.message()));
}

// What the backend offers; on a CPU at most a quarter of RAM, since the rest of the machine lives there too.
int64_t AutomaticStateBytes(const Ops& ops) {
  const int64_t available = ops.AvailableStateBytes();
  if (ops.info().name == "cuda") return available;
  return std::min(available, int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE) / 4);
}

// The least memory that DividePages gives so many pages of, to a mebibyte. REQUIRES: it gives so many of
// some.
int64_t LeastStateBytes(int64_t pages, const StateLayout& layout, int32_t max_batch_sessions) {
  int64_t bytes = pages * layout.page_bytes();
  while (DividePages(bytes, layout, max_batch_sessions).pages < pages) bytes += 1 << 20;
  return bytes;
}

// Allocates the slabs and notes their size in the core's options.
absl::Status AllocateState(const DaemonOptions& options, Ops* ops, ServedModel* model) {
  const StateLayout& layout = ops->layout();
  CoreOptions& core = model->core_options;
  const int64_t bytes = options.state_memory.value_or(AutomaticStateBytes(*ops));
  const PageCounts counts = DividePages(bytes, layout, core.max_batch_sessions);
  const int64_t one_session = (core.max_context + kPageTokens - 1) / kPageTokens;
  if (counts.pages < one_session || (layout.has_open_pages() && counts.open_pages < 1)) {
    const int64_t need = LeastStateBytes(one_session, layout, core.max_batch_sessions);
    return absl::InvalidArgumentError(absl::StrFormat(
        "--state_memory: %d MiB are too little for one session of --max_context=%d tokens; give at least %dM",
        bytes >> 20, core.max_context, (need >> 20) + 1));
  }
  core.state_pages = counts.pages;
  core.open_pages = counts.open_pages;
  model->state_bytes = counts.pages * layout.page_bytes() + counts.open_pages * layout.open_page_bytes();
  const absl::Status allocated = ops->AllocateState(counts.pages, counts.open_pages);
  return allocated.ok() ? allocated : WithFlag("state_memory", allocated);
}

void DescribeShape(const ModelShape& shape, v1::ModelShape* out) {
  out->set_vocab_size(shape.vocab);
  out->set_width(shape.width);
  out->set_layers(shape.layers);
  out->set_heads(shape.heads);
  out->set_kv_heads(shape.kv_heads);
  out->set_rope(shape.use_rope);
  out->set_rope_theta(shape.rope_theta);
  out->set_gamma_max(shape.gamma_max);
  out->set_norm_eps(shape.norm_eps);
  out->set_tied_head(shape.tied_head);
}

void DescribeState(const StateLayout& layout, v1::Model* out) {
  out->set_state_dtype(layout.dtype == StateDtype::kCompact ? "compact" : "f32");
  out->set_state_bytes_per_token(layout.token_bytes());
  out->set_state_bytes_per_page(layout.page_bytes());
  out->set_state_bytes_per_open_page(layout.open_page_bytes());
  out->set_page_tokens(kPageTokens);
}

void Describe(const Checkpoint& checkpoint, const Ops& ops, ServedModel* model) {
  const ModelConfig& config = checkpoint.config();
  v1::Model& out = model->description;
  out.set_name(ModelName(checkpoint.dir()));
  out.set_architecture("SessaForCausalLM");
  DescribeShape(checkpoint.shape(), out.mutable_shape());
  DescribeState(ops.layout(), &out);
  out.set_parameters(checkpoint.parameter_count());
  out.set_weight_dtype(DtypeName(checkpoint.weights_dtype()));
  out.set_fingerprint(absl::StrFormat("%016x", checkpoint.fingerprint()));
  out.set_backend(ops.info().name);
  out.set_backend_description(ops.info().description);
  out.set_max_context(model->core_options.max_context);
  out.set_trained_context(config.max_positions);
  out.set_has_tokenizer(model->tokenizer != nullptr);
  if (config.bos_token) out.set_bos_token_id(*config.bos_token);
  if (config.eos_token) out.set_eos_token_id(*config.eos_token);
  *out.mutable_default_sampling() = DefaultSampling(model->limits);
  out.set_server_version(kVersion);
  out.set_server_commit(kCommit);
}

absl::Status LoadTokenizer(const Checkpoint& checkpoint, ServedModel* model) {
  const std::string path = checkpoint.tokenizer_path();
  if (path.empty()) return absl::OkStatus();
  auto tokenizer = LoadSentencePieceTokenizer(path);
  if (!tokenizer.ok()) return tokenizer.status();
  const absl::Status fits = CheckTokenizerFits(**tokenizer, checkpoint.shape().vocab, path);
  if (!fits.ok()) return fits;
  model->tokenizer = *std::move(tokenizer);
  return absl::OkStatus();
}

void SetLimits(const Checkpoint& checkpoint, ServedModel* model) {
  RequestLimits& limits = model->limits;
  limits.vocab = checkpoint.shape().vocab;
  limits.max_context = model->core_options.max_context;
  limits.has_tokenizer = model->tokenizer != nullptr;
  if (model->tokenizer != nullptr) limits.max_token_bytes = model->tokenizer->MostBytesPerToken();
  limits.bos_token = model->core_options.bos_token;
  limits.eos_token = model->core_options.eos_token;
  limits.defaults = checkpoint.generation_defaults();
}

absl::Status SetCoreOptions(const DaemonOptions& options, const Checkpoint& checkpoint, CoreOptions* core) {
  const auto max_context = MaxContext(options, checkpoint.config());
  if (!max_context.ok()) return max_context.status();
  core->max_context = *max_context;
  core->shape = checkpoint.shape();
  core->bos_token = checkpoint.config().bos_token.value_or(-1);
  core->eos_token = checkpoint.config().eos_token.value_or(-1);
  core->max_batch_tokens = options.max_batch_tokens;
  core->max_batch_sessions = options.max_batch_sessions;
  core->max_waiting = options.max_waiting;
  core->max_sessions = options.max_sessions;
  core->tokenizer_threads = options.tokenizer_threads;
  core->idle_state_ttl = options.idle_state_ttl;
  core->idle_session_ttl = options.idle_session_ttl;
  return absl::OkStatus();
}

absl::StatusOr<Backend> MakeBackend(const DaemonOptions& options, const Checkpoint& checkpoint) {
  OpsOptions ops;
  ops.max_rows = options.max_batch_tokens;
  ops.max_segments = options.max_batch_sessions;
  ops.state_dtype = ChooseStateDtype(options.state_dtype, checkpoint.weights_dtype());
  ops.cpu_threads = options.cpu_threads;
  ops.device = options.device;
  return CreateBackend(options.backend, checkpoint.shape(), checkpoint.tensors(), ops);
}

}  // namespace

PageCounts DividePages(int64_t bytes, const StateLayout& layout, int32_t max_batch_sessions) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
  static_assert(kMost > kMostContext / kPageTokens);
  const int64_t page = layout.page_bytes(), open = layout.open_page_bytes();
  bytes = std::min(bytes, kMost * (page + open));  // more gives no more pages, and could overflow below
  // bytes = pages * page + open_pages * open with open_pages = pages / 4 ...
  int64_t pages = std::min(kMost, 4 * bytes / (4 * page + open));
  int64_t open_pages = layout.has_open_pages() ? pages / 4 : 0;
  // ... unless a full batch would need more: then one for each two pages at most.
  if (layout.has_open_pages() && open_pages < max_batch_sessions) {
    const int64_t most_open = bytes / (2 * page + open);
    open_pages = std::max(open_pages, std::min<int64_t>(max_batch_sessions, most_open));
    pages = std::min(kMost, (bytes - open_pages * open) / page);
  }
  return {static_cast<int32_t>(std::max<int64_t>(0, pages)), static_cast<int32_t>(open_pages)};
}

absl::StatusOr<ServedModel> LoadServedModel(const DaemonOptions& options, CoreHooks hooks,
                                            const Clock* clock) {
  auto checkpoint = LoadCheckpoint(options.model_dir);
  if (!checkpoint.ok()) return WithFlag("model", checkpoint.status());
  ServedModel model;
  if (auto status = SetCoreOptions(options, **checkpoint, &model.core_options); !status.ok()) return status;
  if (auto status = LoadTokenizer(**checkpoint, &model); !status.ok()) return WithFlag("model", status);
  SetLimits(**checkpoint, &model);

  auto backend = MakeBackend(options, **checkpoint);
  if (!backend.ok()) return WithFlag("backend", backend.status());
  model.backend_note = backend->note;
  if (auto status = AllocateState(options, backend->ops.get(), &model); !status.ok()) return status;
  Describe(**checkpoint, *backend->ops, &model);

  auto core =
      Core::Create(model.core_options, std::move(backend->ops), model.tokenizer, std::move(hooks), clock);
  if (!core.ok()) return core.status();
  model.core = *std::move(core);
  return model;
}

}  // namespace sessa
