// A small valid checkpoint folder for tests, to be changed before it is written and loaded.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/checkpoint/checkpoint.h"
#include "tests/runtime/checkpoint/safetensors_bytes.h"

namespace sessa {

inline constexpr int64_t V = 7, D = 4, KV = 2;  // 2 layers, 2 heads, 1 key/value head

// What a folder holds; wrong things are done to it before it is written.
struct Folder {
  std::map<std::string, std::string> config = {{"vocab_size", "7"},
                                               {"hidden_size", "4"},
                                               {"num_hidden_layers", "2"},
                                               {"num_attention_heads", "2"},
                                               {"num_key_value_heads", "1"},
                                               {"max_position_embeddings", "64"},
                                               {"torch_dtype", "\"float32\""},
                                               {"model_type", "\"sessa\""},
                                               {"architectures", "[\"SessaForCausalLM\"]"}};
  std::map<std::string, TestTensor> tensors;
  std::map<std::string, std::string> files;  // more files, or other contents of the usual ones

  Folder() {
    Add("model.embed_tokens.weight", {V, D});
    for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
      const std::vector<std::pair<const char*, std::vector<int64_t>>> table = {
          {"ln.weight", {D}},
          {"ln.bias", {D}},
          {"W_in.weight", {2 * D, D}},
          {"W_in.bias", {2 * D}},
          {"mixer.q_proj.weight", {D, D}},
          {"mixer.q_proj.bias", {D}},
          {"mixer.k_proj.weight", {KV, D}},
          {"mixer.k_proj.bias", {KV}},
          {"mixer.v_proj.weight", {KV, D}},
          {"mixer.v_proj.bias", {KV}},
          {"mixer.proj_fb.weight", {2 * D, D}},
          {"mixer.proj_fb.bias", {2 * D}},
          {"mixer.out_proj.weight", {D, D}},
          {"mixer.gamma_bias", {}},
          {"mixer.gamma_ctx.weight", {1, D}},
          {"W_out.weight", {D, D}},
          {"W_out.bias", {D}}};
      for (const auto& [name, dims] : table) Add(absl::StrCat(layer, name), dims);
    }
    Add("model.norm.weight", {D});
    Add("model.norm.bias", {D});
    Add("lm_head.weight", {V, D});
  }

  // Every number of a tensor is the count of tensors before it.
  void Add(const std::string& name, const std::vector<int64_t>& dims) {
    int64_t count = 1;
    for (const int64_t dim : dims) count *= dim;
    const std::vector<float> numbers(count, static_cast<float>(tensors.size()));
    tensors[name] = {name, "F32", dims,
                     std::string(reinterpret_cast<const char*>(numbers.data()), count * sizeof(float))};
  }
  void SetDtype(const std::string& name, const std::string& dtype, int64_t number_bytes) {
    TestTensor& t = tensors[name];
    t.bytes.resize(t.bytes.size() / 4 * number_bytes);
    t.dtype = dtype;
  }
  std::string ConfigText() const {
    return absl::StrCat("{",
                        absl::StrJoin(config, ",",
                                      [](std::string* out, const auto& key) {
                                        absl::StrAppend(out, "\"", key.first, "\":", key.second);
                                      }),
                        "}");
  }
  std::string ModelBytes(const std::function<bool(const std::string&)>& wanted) const {
    std::vector<TestTensor> list;
    for (const auto& [name, tensor] : tensors) {
      if (wanted(name)) list.push_back(tensor);
    }
    return SafetensorsBytes(list);
  }
  // Two shards: the layers, and the rest.
  void Shard() {
    const auto in_layer = [](const std::string& name) { return name.find(".layers.") != std::string::npos; };
    files["one.safetensors"] = ModelBytes(in_layer);
    files["two.safetensors"] = ModelBytes([&](const std::string& name) { return !in_layer(name); });
    std::map<std::string, std::string> map;
    for (const auto& [name, tensor] : tensors)
      map[name] = in_layer(name) ? "one.safetensors" : "two.safetensors";
    SetIndex(map);
    files["model.safetensors"] = kAbsent;
  }
  void SetIndex(const std::map<std::string, std::string>& map) {
    files["model.safetensors.index.json"] =
        absl::StrCat("{\"metadata\":{\"total_size\":1},\"weight_map\":{",
                     absl::StrJoin(map, ",",
                                   [](std::string* out, const auto& entry) {
                                     absl::StrAppend(out, "\"", entry.first, "\":\"", entry.second, "\"");
                                   }),
                     "}}");
  }
  static constexpr char kAbsent[] = "(absent)";
};

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() {
    char name[] = "/tmp/sessa_checkpoint_test.XXXXXX";
    dir_ = mkdtemp(name);
  }
  ~CheckpointTest() override { std::filesystem::remove_all(dir_); }

  absl::StatusOr<std::unique_ptr<Checkpoint>> Load(const Folder& folder) {
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directory(dir_);
    std::map<std::string, std::string> files = {
        {"config.json", folder.ConfigText()},
        {"model.safetensors", folder.ModelBytes([](const std::string&) { return true; })}};
    for (const auto& [name, bytes] : folder.files) files[name] = bytes;
    for (const auto& [name, bytes] : files) {
      if (bytes != Folder::kAbsent) std::ofstream(dir_ + "/" + name, std::ios::binary) << bytes;
    }
    return LoadCheckpoint(dir_);
  }
  void ExpectRefused(const Folder& folder, absl::string_view file, absl::string_view reason) {
    const auto checkpoint = Load(folder);
    ASSERT_FALSE(checkpoint.ok());
    EXPECT_THAT(std::string(checkpoint.status().message()), testing::HasSubstr(absl::StrCat(dir_, file)));
    EXPECT_THAT(std::string(checkpoint.status().message()), testing::HasSubstr(std::string(reason)));
  }

  std::string dir_;
};

}  // namespace sessa
