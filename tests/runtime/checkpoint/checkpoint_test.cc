// Checkpoint folders: the shipped ones, and variants of a small one that are valid, too.
#include "runtime/checkpoint/checkpoint.h"

#include <sys/stat.h>

#include <filesystem>
#include <functional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/checkpoint/checkpoint_folder.h"

namespace sessa {
namespace {

using testing::HasSubstr;

float First(const TensorView& view) { return *static_cast<const float*>(view.data); }

TEST_F(CheckpointTest, ValidFolder) {
  const auto loaded = Load(Folder());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Checkpoint& checkpoint = **loaded;
  EXPECT_EQ(checkpoint.shape().vocab, 7);
  EXPECT_EQ(checkpoint.weights_dtype(), DType::kF32);
  EXPECT_EQ(checkpoint.tokenizer_path(), "");
  int64_t numbers = 0;
  for (const auto& [name, tensor] : Folder().tensors) numbers += tensor.bytes.size() / 4;
  EXPECT_EQ(checkpoint.parameter_count(), numbers);
  const ModelTensors& t = checkpoint.tensors();
  ASSERT_EQ(t.layers.size(), 2u);
  // In the order in which Folder makes them: each view shows its own tensor.
  EXPECT_EQ(First(t.embed), 0);
  for (int i = 0; i < 2; ++i) {
    const LayerTensors& l = t.layers[i];
    float number = 1.0f + 17 * i;
    for (const TensorView* view :
         {&l.ln_weight, &l.ln_bias, &l.w_in_weight, &l.w_in_bias, &l.q_weight, &l.q_bias, &l.k_weight,
          &l.k_bias, &l.v_weight, &l.v_bias, &l.fb_weight, &l.fb_bias, &l.out_weight, &l.gamma_bias,
          &l.gamma_weight, &l.w_out_weight, &l.w_out_bias}) {
      EXPECT_EQ(First(*view), number++);
    }
  }
  EXPECT_EQ(First(t.norm_weight), 35);
  EXPECT_EQ(First(t.norm_bias), 36);
  EXPECT_EQ(First(t.head), 37);
  EXPECT_EQ(t.head.dims, (std::vector<int64_t>{V, D}));
  EXPECT_TRUE(t.layers[1].gamma_bias.dims.empty());
}

TEST_F(CheckpointTest, ShippedFolders) {
  for (const auto& entry : std::filesystem::directory_iterator("tests/golden")) {
    if (!entry.is_directory()) continue;
    const auto checkpoint = LoadCheckpoint(entry.path().string());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ((*checkpoint)->weights_dtype(), DType::kF32);
  }
  const auto recall = LoadCheckpoint("models/sessa-recall-7m");
  ASSERT_TRUE(recall.ok()) << recall.status();
  EXPECT_EQ((*recall)->weights_dtype(), DType::kBF16);
  EXPECT_EQ((*recall)->tokenizer_path(), "models/sessa-recall-7m/tokenizer.model");
  EXPECT_EQ((*recall)->tensors().head.data, nullptr);
}

TEST_F(CheckpointTest, OneHeadHasNoOutProjection) {
  Folder folder;
  folder.config["num_attention_heads"] = "1";
  for (const char* layer : {"model.layers.0.mixer.", "model.layers.1.mixer."}) {
    for (const char* kv : {"k_proj", "v_proj"}) {
      folder.Add(absl::StrCat(layer, kv, ".weight"), {D, D});
      folder.Add(absl::StrCat(layer, kv, ".bias"), {D});
    }
  }
  ExpectRefused(folder, "/model.safetensors",
                "\"model.layers.0.mixer.out_proj.weight\": is not part of a model");
  folder.tensors.erase("model.layers.0.mixer.out_proj.weight");
  folder.tensors.erase("model.layers.1.mixer.out_proj.weight");
  const auto checkpoint = Load(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->tensors().layers[0].out_weight.data, nullptr);
}

TEST_F(CheckpointTest, TiedHead) {
  Folder folder;
  folder.config["tie_word_embeddings"] = "true";
  ExpectRefused(folder, "/model.safetensors",
                "\"lm_head.weight\": is stored although tie_word_embeddings is true");
  folder.tensors.erase("lm_head.weight");
  const auto checkpoint = Load(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->tensors().head.data, nullptr);
}

TEST_F(CheckpointTest, BuffersOfTheAuthorAreIgnored) {
  Folder folder;
  folder.tensors["model.layers.0.mixer.rope_inv_freq"] = {
      "model.layers.0.mixer.rope_inv_freq", "F64", {1}, "12345678"};
  folder.tensors["model.layers.1.mixer.causal_mask_f_full"] = {
      "model.layers.1.mixer.causal_mask_f_full", "BOOL", {1, 1, 1, 1}, "x"};
  const auto with = Load(folder);
  ASSERT_TRUE(with.ok()) << with.status();
  const auto without = Load(Folder());
  EXPECT_EQ((*with)->parameter_count(), (*without)->parameter_count());
  EXPECT_EQ((*with)->fingerprint(), (*without)->fingerprint());
  folder.tensors["rope_inv_freq"] = {"rope_inv_freq", "F64", {1}, "12345678"};
  ExpectRefused(folder, "/model.safetensors", "tensor \"rope_inv_freq\": is not part");
}

TEST_F(CheckpointTest, WeightsDtypeHoldsAllThatIsStored) {
  Folder folder;
  for (const auto& [name, tensor] : Folder().tensors) folder.SetDtype(name, "F16", 2);
  auto checkpoint = Load(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->weights_dtype(), DType::kF16);
  folder.SetDtype("model.norm.bias", "BF16", 4);
  checkpoint = Load(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->weights_dtype(), DType::kF32);
  EXPECT_EQ((*checkpoint)->tensors().norm_bias.dtype, DType::kBF16);
}

TEST_F(CheckpointTest, TensorsAtOddAddressesAreCopied) {
  Folder folder;  // the header ends wherever it ends, so with one of these names the data begin at an odd
                  // address
  for (int extra = 0; extra < 4; ++extra) {
    const std::string name =
        absl::StrCat("model.layers.0.mixer.causal_mask_", std::string(extra, 'x'), "_full");
    folder.tensors[name] = {name, "U8", {1}, "x"};
    const auto checkpoint = Load(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    for (const TensorView* view : {&(*checkpoint)->tensors().embed, &(*checkpoint)->tensors().head}) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(view->data) % 4, 0u);
    }
    EXPECT_EQ(First((*checkpoint)->tensors().head), 37);
  }
}

TEST_F(CheckpointTest, FingerprintTellsModelsApartAndNothingElse) {
  const auto base = Load(Folder());
  ASSERT_TRUE(base.ok());
  const uint64_t fingerprint = (*base)->fingerprint();

  Folder sharded;
  sharded.Shard();
  sharded.config["max_position_embeddings"] = "128";
  const auto same = Load(sharded);
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ((*same)->fingerprint(), fingerprint);

  const std::vector<std::function<void(Folder&)>> changes = {
      [](Folder& f) { f.config["gamma_max"] = "0.998"; },
      [](Folder& f) { f.config["rope_theta"] = "10001"; },
      [](Folder& f) { f.config["layer_norm_eps"] = "1e-6"; },
      [](Folder& f) { f.config["use_forward_rope"] = "false"; },
      [](Folder& f) { f.tensors["lm_head.weight"].bytes.back() ^= 1; },
      [](Folder& f) { f.tensors["model.layers.0.mixer.gamma_bias"].bytes[0] ^= 1; },
      [](Folder& f) { f.SetDtype("model.norm.bias", "F16", 2); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    Folder folder;
    changes[i](folder);
    const auto other = Load(folder);
    ASSERT_TRUE(other.ok()) << other.status();
    EXPECT_NE((*other)->fingerprint(), fingerprint) << i;
  }
}

TEST_F(CheckpointTest, FingerprintIsTheSameInEveryVersion) {
  const auto recall = LoadCheckpoint("models/sessa-recall-7m");
  ASSERT_TRUE(recall.ok());
  EXPECT_EQ((*recall)->fingerprint(), 0x30f2aa4523dfe50f);  // page files are bound to it
}

TEST_F(CheckpointTest, GenerationDefaults) {
  Folder folder;
  folder.files["generation_config.json"] = "{\"temperature\": 0.5}";
  const auto checkpoint = Load(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->generation_defaults().temperature, 0.5f);
  folder.files["generation_config.json"] = "{\"temperature\": -0.5}";
  ExpectRefused(folder, "/generation_config.json", "temperature must be");
}

TEST_F(CheckpointTest, Shards) {
  Folder folder;
  folder.Shard();
  const auto checkpoint = Load(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(First((*checkpoint)->tensors().head), 37);
  EXPECT_EQ(First((*checkpoint)->tensors().layers[0].ln_weight), 1);
}

TEST_F(CheckpointTest, FoldersThatAreNone) {
  EXPECT_EQ(LoadCheckpoint("/nowhere").status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(LoadCheckpoint("/etc/passwd").ok());
  EXPECT_FALSE(LoadCheckpoint("").ok());
  std::filesystem::remove_all(dir_);
  std::filesystem::create_directory(dir_);
  std::filesystem::create_directory(dir_ + "/config.json");
  EXPECT_THAT(std::string(LoadCheckpoint(dir_).status().message()),
              HasSubstr("/config.json: not a regular file"));
  std::filesystem::remove_all(dir_ + "/config.json");
  ASSERT_EQ(mkfifo((dir_ + "/config.json").c_str(), 0600), 0);  // must not hang
  EXPECT_THAT(std::string(LoadCheckpoint(dir_).status().message()),
              HasSubstr("/config.json: not a regular file"));
}

}  // namespace
}  // namespace sessa
