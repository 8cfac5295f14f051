// The folder of checkpoint_folder.h with one thing wrong: refused, and the message says where and why.
#include "gtest/gtest.h"
#include "tests/runtime/checkpoint/checkpoint_folder.h"

namespace sessa {
namespace {

struct Row {
  const char* what;
  std::function<void(Folder&)> change;
  const char* file;
  const char* error;
};

class WrongCheckpointTest : public CheckpointTest, public testing::WithParamInterface<Row> {};

TEST_P(WrongCheckpointTest, IsRefused) {
  Folder folder;
  GetParam().change(folder);
  ExpectRefused(folder, GetParam().file, GetParam().error);
}

void ChangeIndex(Folder& f, const std::string& tensor, const std::string& shard) {
  std::map<std::string, std::string> map;
  for (const auto& [name, t] : f.tensors) {
    map[name] = name.find(".layers.") != std::string::npos ? "one.safetensors" : "two.safetensors";
  }
  map[tensor] = shard;
  f.SetIndex(map);
}

INSTANTIATE_TEST_SUITE_P(
    All, WrongCheckpointTest,
    testing::ValuesIn(std::vector<Row>{
        {"no_config", [](Folder& f) { f.files["config.json"] = Folder::kAbsent; }, "/config.json",
         "cannot be opened"},
        {"config_wrong", [](Folder& f) { f.config["vocab_size"] = "0"; }, "/config.json",
         "vocab_size must be"},
        {"config_huge", [](Folder& f) { f.files["config.json"] = std::string(2'000'000, ' '); },
         "/config.json", "at most"},
        {"config_empty", [](Folder& f) { f.files["config.json"] = ""; }, "/config.json", "not JSON"},
        {"no_model", [](Folder& f) { f.files["model.safetensors"] = Folder::kAbsent; }, "/model.safetensors",
         "cannot be opened"},
        {"model_empty", [](Folder& f) { f.files["model.safetensors"] = ""; }, "/model.safetensors",
         "shorter than"},
        {"missing_tensor", [](Folder& f) { f.tensors.erase("model.layers.1.W_out.bias"); },
         "/model.safetensors", "tensor \"model.layers.1.W_out.bias\": is missing"},
        {"missing_head", [](Folder& f) { f.tensors.erase("lm_head.weight"); }, "/model.safetensors",
         "tensor \"lm_head.weight\": is missing"},
        {"extra_tensor", [](Folder& f) { f.Add("model.layers.2.ln.weight", {D}); }, "/model.safetensors",
         "tensor \"model.layers.2.ln.weight\": is not part"},
        {"too_few_layers", [](Folder& f) { f.config["num_hidden_layers"] = "3"; }, "/model.safetensors",
         "tensor \"model.layers.2.ln.weight\": is missing"},
        {"too_many_layers", [](Folder& f) { f.config["num_hidden_layers"] = "1"; }, "/model.safetensors",
         "tensor \"model.layers.1.W_in.bias\": is not part"},
        {"wrong_dtype", [](Folder& f) { f.SetDtype("model.norm.bias", "I32", 4); }, "/model.safetensors",
         "tensor \"model.norm.bias\": dtype I32; F32, BF16 or F16 is needed"},
        {"double", [](Folder& f) { f.SetDtype("model.norm.bias", "F64", 8); }, "/model.safetensors",
         "tensor \"model.norm.bias\": dtype F64"},
        {"wrong_shape",
         [](Folder& f) {
           f.Add("model.embed_tokens.weight", {D, V});
         },
         "/model.safetensors", "tensor \"model.embed_tokens.weight\": shape [4, 7]; [7, 4] is needed"},
        {"wrong_rank", [](Folder& f) { f.Add("model.layers.0.mixer.gamma_bias", {1}); }, "/model.safetensors",
         "tensor \"model.layers.0.mixer.gamma_bias\": shape [1]; [] is needed"},
        {"other_vocabulary", [](Folder& f) { f.config["vocab_size"] = "8"; }, "/model.safetensors",
         "shape [7, 4]; [8, 4] is needed"},
        {"both",
         [](Folder& f) {
           f.Shard();
           f.files.erase("model.safetensors");
         },
         "", "has both model.safetensors and"},
        {"shard_absent",
         [](Folder& f) {
           f.Shard();
           f.files["two.safetensors"] = Folder::kAbsent;
         },
         "/two.safetensors", "cannot be opened"},
        {"shard_truncated",
         [](Folder& f) {
           f.Shard();
           f.files["two.safetensors"].pop_back();
         },
         "/two.safetensors", "truncated"},
        {"shard_above",
         [](Folder& f) {
           f.Shard();
           ChangeIndex(f, "lm_head.weight", "../two.safetensors");
         },
         "/model.safetensors.index.json",
         "tensor \"lm_head.weight\": its shard must be the name of a file inside"},
        {"shard_absolute",
         [](Folder& f) {
           f.Shard();
           ChangeIndex(f, "lm_head.weight", "/etc/passwd");
         },
         "/model.safetensors.index.json", "tensor \"lm_head.weight\": its shard must be"},
        {"shard_is_the_folder",
         [](Folder& f) {
           f.Shard();
           ChangeIndex(f, "lm_head.weight", ".");
         },
         "/model.safetensors.index.json", "tensor \"lm_head.weight\": its shard must be"},
        {"shard_unnamed",
         [](Folder& f) {
           f.Shard();
           ChangeIndex(f, "lm_head.weight", "");
         },
         "/model.safetensors.index.json", "tensor \"lm_head.weight\": its shard must be"},
        {"wrong_shard",
         [](Folder& f) {
           f.Shard();
           ChangeIndex(f, "lm_head.weight", "one.safetensors");
         },
         "/model.safetensors.index.json", "tensor \"lm_head.weight\": is not in \"one.safetensors\""},
        {"listed_but_nowhere",
         [](Folder& f) {
           f.Shard();
           ChangeIndex(f, "ghost", "one.safetensors");
         },
         "/model.safetensors.index.json", "tensor \"ghost\": is not in \"one.safetensors\""},
        {"not_listed",
         [](Folder& f) {
           f.Shard();
           std::string& index = f.files["model.safetensors.index.json"];
           const std::string entry = "\"lm_head.weight\":\"two.safetensors\",";
           index.erase(index.find(entry), entry.size());
         },
         "/model.safetensors.index.json", "tensor \"lm_head.weight\" of"},
        {"in_two_shards",
         [](Folder& f) {
           f.Shard();
           f.files["two.safetensors"] = f.ModelBytes([](const std::string& n) {
             return n.find(".layers.") == std::string::npos || n == "model.layers.0.ln.bias";
           });
         },
         "/two.safetensors", "tensor \"model.layers.0.ln.bias\": is also in"},
        {"index_without_map",
         [](Folder& f) {
           f.Shard();
           f.files["model.safetensors.index.json"] = "{}";
         },
         "/model.safetensors.index.json", "weight_map must be an object"},
        {"index_not_json",
         [](Folder& f) {
           f.Shard();
           f.files["model.safetensors.index.json"] = "{";
         },
         "/model.safetensors.index.json", "not JSON"},
        {"index_number",
         [](Folder& f) {
           f.Shard();
           f.files["model.safetensors.index.json"] = "{\"weight_map\":{\"a\":1}}";
         },
         "/model.safetensors.index.json", "tensor \"a\": its shard must be"},
        {"index_duplicate",
         [](Folder& f) {
           f.Shard();
           f.files["model.safetensors.index.json"] = "{\"weight_map\":{\"a\":\"x\",\"a\":\"x\"}}";
         },
         "/model.safetensors.index.json", "duplicate key \"a\""},
        {"index_empty_map",
         [](Folder& f) {
           f.Shard();
           f.files["model.safetensors.index.json"] = "{\"weight_map\":{}}";
         },
         "", "tensor \"model.embed_tokens.weight\": is missing"},
    }),
    [](const testing::TestParamInfo<Row>& info) { return info.param.what; });

}  // namespace
}  // namespace sessa
