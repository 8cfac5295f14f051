#include "runtime/checkpoint/config.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "runtime/checkpoint/json.h"

namespace sessa {
namespace {

using nlohmann::json;

// Limits far above any model, low enough that no product of sizes overflows.
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxWidth = int64_t{1} << 17;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxPositions = std::numeric_limits<int32_t>::max();

// Reads keys of one object; remembers the first thing that is wrong.
class Reader {
 public:
  Reader(absl::string_view file, const json& object) : file_(file), object_(object) {}

  const absl::Status& status() const { return status_; }

  void Fail(absl::string_view key, absl::string_view reason) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(file_, ": ", key, " ", reason));
  }

  // The value of a key; nullptr when it is absent or null, which is an error for a required key.
  const json* Find(absl::string_view key, bool required) {
    const auto it = object_.find(std::string(key));
    if (it != object_.end() && !it->is_null()) return &*it;
    if (required) Fail(key, "is missing");
    return nullptr;
  }

  std::optional<int64_t> Integer(absl::string_view key, int64_t min, int64_t max, bool required = false) {
    const json* value = Find(key, required);
    if (value == nullptr) return std::nullopt;
    const bool too_large =
        value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()};
    if (!value->is_number_integer()) {
      Fail(key, "must be an integer");
    } else if (too_large || value->get<int64_t>() < min || value->get<int64_t>() > max) {
      Fail(key, absl::StrCat("must be from ", min, " to ", max, ", not ", value->dump()));
    } else {
      return value->get<int64_t>();
    }
    return std::nullopt;
  }

  std::optional<double> Number(absl::string_view key) {
    const json* value = Find(key, false);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number()) {
      Fail(key, "must be a number");
      return std::nullopt;
    }
    return value->get<double>();
  }

  // In float32, as it will be used: what rounds to a value out of range is out of range.
  std::optional<float> Float(absl::string_view key, bool (*right)(float), absl::string_view range) {
    const std::optional<double> number = Number(key);
    if (!number) return std::nullopt;
    const float value = static_cast<float>(*number);
    if (!right(value)) Fail(key, absl::StrCat("must be ", range));
    return value;
  }

  std::optional<bool> Boolean(absl::string_view key) {
    const json* value = Find(key, false);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) {
      Fail(key, "must be true or false");
      return std::nullopt;
    }
    return value->get<bool>();
  }

  std::optional<std::string> String(absl::string_view key, bool required) {
    const json* value = Find(key, required);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) {
      Fail(key, "must be a string");
      return std::nullopt;
    }
    return value->get<std::string>();
  }

 private:
  const absl::string_view file_;
  const json& object_;
  absl::Status status_;
};

void ReadSizes(Reader& in, ModelShape& shape) {
  shape.vocab = in.Integer("vocab_size", 1, kMaxVocab, true).value_or(1);
  shape.width = in.Integer("hidden_size", 1, kMaxWidth, true).value_or(1);
  shape.layers = in.Integer("num_hidden_layers", 1, kMaxLayers, true).value_or(1);
  shape.heads = in.Integer("num_attention_heads", 1, kMaxWidth, true).value_or(1);
  shape.kv_heads = in.Integer("num_key_value_heads", 1, kMaxWidth).value_or(shape.heads);
  if (!in.status().ok()) return;
  if (shape.width % shape.heads != 0) {
    in.Fail("num_attention_heads",
            absl::StrCat("= ", shape.heads, " must divide hidden_size = ", shape.width));
  } else if (shape.heads % shape.kv_heads != 0) {
    in.Fail("num_key_value_heads",
            absl::StrCat("= ", shape.kv_heads, " must divide num_attention_heads = ", shape.heads));
  }
}

void ReadMaths(Reader& in, ModelShape& shape) {
  const double eps = in.Number("layer_norm_eps").value_or(1e-5);
  if (!(eps >= 1e-30 && eps <= 1)) in.Fail("layer_norm_eps", "must be from 1e-30 to 1");
  shape.norm_eps = static_cast<float>(eps);
  shape.rope_theta = in.Number("rope_theta").value_or(10000.0);
  if (!(shape.rope_theta >= 1 && shape.rope_theta <= 1e30)) in.Fail("rope_theta", "must be from 1 to 1e30");
  shape.use_rope = in.Boolean("use_forward_rope").value_or(true);
  shape.gamma_max = in.Number("gamma_max").value_or(0.999);
  // Also in float32, where the backends keep it: 1 would lose the bound on the recurrence.
  if (!(shape.gamma_max > 0 && static_cast<float>(shape.gamma_max) < 1.0f)) {
    in.Fail("gamma_max", "must be above 0 and below 1 (in float32, too)");
  }
  shape.tied_head = in.Boolean("tie_word_embeddings").value_or(false);
  if (in.status().ok() && shape.use_rope && shape.head_width() % 2 != 0) {
    in.Fail("use_forward_rope", absl::StrCat("needs an even head width, not ", shape.head_width()));
  }
}

void ReadIdentity(Reader& in, ModelConfig& config) {
  if (in.String("model_type", true).value_or("sessa") != "sessa") in.Fail("model_type", "must be \"sessa\"");
  const json* architectures = in.Find("architectures", true);
  if (architectures != nullptr && *architectures != json::array({"SessaForCausalLM"})) {
    in.Fail("architectures", "must be [\"SessaForCausalLM\"]");
  }
  const std::string dtype = in.String("torch_dtype", true).value_or("float32");
  if (dtype == "float32") {
    config.torch_dtype = DType::kF32;
  } else if (dtype == "bfloat16") {
    config.torch_dtype = DType::kBF16;
  } else if (dtype == "float16") {
    config.torch_dtype = DType::kF16;
  } else {
    in.Fail("torch_dtype", absl::StrCat("must be float32, bfloat16 or float16, not ", Quoted(dtype)));
  }
  config.tokenizer_file = in.String("tokenizer_file", false).value_or("");
  if (!config.tokenizer_file.empty() && !IsPlainFileName(config.tokenizer_file)) {
    in.Fail("tokenizer_file",
            absl::StrCat("must name a file inside the folder, not ", Quoted(config.tokenizer_file)));
  }
}

}  // namespace

bool IsPlainFileName(absl::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.size() <= 255 &&
         name.find('/') == absl::string_view::npos && name.find('\0') == absl::string_view::npos;
}

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view file, absl::string_view text) {
  const absl::StatusOr<json> object = ParseJsonObject(file, text);
  if (!object.ok()) return object.status();
  Reader in(file, *object);
  ModelConfig config;
  ReadSizes(in, config.shape);
  ReadMaths(in, config.shape);
  ReadIdentity(in, config);
  config.max_positions = in.Integer("max_position_embeddings", 1, kMaxPositions, true).value_or(1);
  const int64_t last = int64_t{config.shape.vocab} - 1;
  config.bos_token = in.Integer("bos_token_id", 0, last);
  config.eos_token = in.Integer("eos_token_id", 0, last);
  if (!in.status().ok()) return in.status();
  return config;
}

absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(absl::string_view file, absl::string_view text) {
  const absl::StatusOr<json> object = ParseJsonObject(file, text);
  if (!object.ok()) return object.status();
  Reader in(file, *object);
  GenerationDefaults defaults;
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  defaults.max_new_tokens = in.Integer("max_new_tokens", 1, kMost);
  defaults.temperature = in.Float(
      "temperature", [](float t) { return t >= 0 && t <= 100; }, "from 0 to 100");
  defaults.top_k = in.Integer("top_k", 0, kMost);
  defaults.top_p = in.Float(
      "top_p", [](float p) { return p > 0 && p <= 1; }, "above 0 and at most 1");
  defaults.min_p = in.Float(
      "min_p", [](float p) { return p >= 0 && p <= 1; }, "from 0 to 1");
  defaults.repetition_penalty = in.Float(
      "repetition_penalty", [](float r) { return r > 0 && r <= 100; }, "above 0 and at most 100");
  if (!in.status().ok()) return in.status();
  return defaults;
}

}  // namespace sessa
