#include "runtime/checkpoint/tensor_table.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace sessa {

std::vector<ExpectedTensor> ExpectedTensors(const ModelShape& shape, ModelTensors& tensors) {
  const int64_t V = shape.vocab, D = shape.width, kv = shape.kv_width();
  tensors.layers.resize(shape.layers);
  std::vector<ExpectedTensor> table = {{"model.embed_tokens.weight", {V, D}, &tensors.embed}};
  for (int32_t i = 0; i < shape.layers; ++i) {
    LayerTensors& layer = tensors.layers[i];
    auto add = [&](absl::string_view name, std::vector<int64_t> dims, TensorView* view) {
      table.push_back({absl::StrCat("model.layers.", i, ".", name), std::move(dims), view});
    };
    add("ln.weight", {D}, &layer.ln_weight);
    add("ln.bias", {D}, &layer.ln_bias);
    add("W_in.weight", {2 * D, D}, &layer.w_in_weight);
    add("W_in.bias", {2 * D}, &layer.w_in_bias);
    add("mixer.q_proj.weight", {D, D}, &layer.q_weight);
    add("mixer.q_proj.bias", {D}, &layer.q_bias);
    add("mixer.k_proj.weight", {kv, D}, &layer.k_weight);
    add("mixer.k_proj.bias", {kv}, &layer.k_bias);
    add("mixer.v_proj.weight", {kv, D}, &layer.v_weight);
    add("mixer.v_proj.bias", {kv}, &layer.v_bias);
    add("mixer.proj_fb.weight", {2 * D, D}, &layer.fb_weight);
    add("mixer.proj_fb.bias", {2 * D}, &layer.fb_bias);
    if (shape.has_out_proj()) add("mixer.out_proj.weight", {D, D}, &layer.out_weight);
    add("mixer.gamma_bias", {}, &layer.gamma_bias);
    add("mixer.gamma_ctx.weight", {1, D}, &layer.gamma_weight);
    add("W_out.weight", {D, D}, &layer.w_out_weight);
    add("W_out.bias", {D}, &layer.w_out_bias);
  }
  table.push_back({"model.norm.weight", {D}, &tensors.norm_weight});
  table.push_back({"model.norm.bias", {D}, &tensors.norm_bias});
  if (!shape.tied_head) table.push_back({"lm_head.weight", {V, D}, &tensors.head});
  return table;
}

bool IsIgnoredBuffer(absl::string_view name) {
  if (!absl::ConsumePrefix(&name, "model.layers.")) return false;
  const size_t dot = name.rfind('.');
  const absl::string_view last = dot == absl::string_view::npos ? name : name.substr(dot + 1);
  return absl::EndsWith(name, ".mixer.rope_inv_freq") ||
         (absl::StartsWith(last, "causal_mask_") && absl::EndsWith(last, "_full"));
}

}  // namespace sessa
