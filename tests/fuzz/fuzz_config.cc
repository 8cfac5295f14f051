// Any text as config.json and as generation_config.json: refused, or values that a backend can work with.
#include "absl/strings/match.h"
#include "runtime/checkpoint/config.h"
#include "tests/fuzz/fuzz.h"

namespace {

void CheckModel(const sessa::ModelConfig& config) {
  const sessa::ModelShape& s = config.shape;
  FUZZ_CHECK(s.vocab > 0 && s.width > 0 && s.layers > 0 && s.heads > 0 && s.kv_heads > 0);
  FUZZ_CHECK(s.width % s.heads == 0 && s.heads % s.kv_heads == 0);
  FUZZ_CHECK(!s.use_rope || s.head_width() % 2 == 0);
  FUZZ_CHECK(s.norm_eps > 0 && s.rope_theta > 0 && s.gamma_max > 0 && static_cast<float>(s.gamma_max) < 1);
  FUZZ_CHECK(config.max_positions > 0);
  FUZZ_CHECK(!config.bos_token || (*config.bos_token >= 0 && *config.bos_token < s.vocab));
  FUZZ_CHECK(!config.eos_token || (*config.eos_token >= 0 && *config.eos_token < s.vocab));
  FUZZ_CHECK(config.tokenizer_file.empty() || sessa::IsPlainFileName(config.tokenizer_file));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = sessa::ParseModelConfig("file", text);
  if (config.ok()) {
    CheckModel(*config);
  } else {
    FUZZ_CHECK(absl::StartsWith(config.status().message(), "file: "));
  }
  const auto defaults = sessa::ParseGenerationDefaults("file", text);
  if (defaults.ok()) {
    FUZZ_CHECK(!defaults->temperature || (*defaults->temperature >= 0 && *defaults->temperature <= 100));
    FUZZ_CHECK(!defaults->top_k || *defaults->top_k >= 0);
    FUZZ_CHECK(!defaults->top_p || (*defaults->top_p > 0 && *defaults->top_p <= 1));
    FUZZ_CHECK(!defaults->min_p || (*defaults->min_p >= 0 && *defaults->min_p <= 1));
    FUZZ_CHECK(!defaults->repetition_penalty ||
               (*defaults->repetition_penalty > 0 && *defaults->repetition_penalty <= 100));
    FUZZ_CHECK(!defaults->max_new_tokens || *defaults->max_new_tokens >= 1);
  }
  return 0;
}
