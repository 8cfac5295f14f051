#include "runtime/checkpoint/checkpoint.h"

#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/checkpoint/fingerprint.h"
#include "runtime/checkpoint/json.h"
#include "runtime/checkpoint/mapped_file.h"
#include "runtime/checkpoint/tensor_table.h"

namespace sessa {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr size_t kMaxIndexBytes = 16 << 20;

std::optional<DType> WeightType(absl::string_view dtype) {
  if (dtype == "F32") return DType::kF32;
  if (dtype == "BF16") return DType::kBF16;
  if (dtype == "F16") return DType::kF16;
  return std::nullopt;
}

std::string ShapeText(const std::vector<int64_t>& dims) {
  return absl::StrCat("[", absl::StrJoin(dims, ", "), "]");
}

// Tensor name -> name of the shard that holds it.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxIndexBytes);
  if (!text.ok()) return text.status();
  const absl::StatusOr<nlohmann::json> index = ParseJsonObject(path, *text);
  if (!index.ok()) return index.status();
  const auto found = index->find("weight_map");
  if (found == index->end() || !found->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": weight_map must be an object"));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [name, shard] : found->items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get_ref<const std::string&>())) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor ", Quoted(name), ": its shard must be the name of a file inside the folder"));
    }
    shards[name] = shard.get<std::string>();
  }
  return shards;
}

}  // namespace

// Builds a Checkpoint step by step; each step returns the first thing that is wrong.
class CheckpointLoader {
 public:
  explicit CheckpointLoader(const std::string& dir) : checkpoint_(new Checkpoint) { checkpoint_->dir_ = dir; }

  absl::StatusOr<std::unique_ptr<Checkpoint>> Load() {
    for (const auto step : {&CheckpointLoader::ReadConfigs, &CheckpointLoader::OpenFiles,
                            &CheckpointLoader::BindTensors, &CheckpointLoader::CheckNothingElse}) {
      const absl::Status status = (this->*step)();
      if (!status.ok()) return status;
    }
    Summarise();
    return std::move(checkpoint_);
  }

 private:
  struct Stored {
    const SafetensorsFile* file;
    const SafetensorsEntry* entry;
    bool used = false;
  };

  std::string Path(absl::string_view name) const { return absl::StrCat(checkpoint_->dir_, "/", name); }

  absl::Status ReadConfigs() {
    const std::string path = Path("config.json");
    const absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxConfigBytes);
    if (!text.ok()) return text.status();
    absl::StatusOr<ModelConfig> config = ParseModelConfig(path, *text);
    if (!config.ok()) return config.status();
    checkpoint_->config_ = *std::move(config);

    const std::string generation_path = Path("generation_config.json");
    if (!FileExists(generation_path)) return absl::OkStatus();
    const absl::StatusOr<std::string> generation_text = ReadSmallFile(generation_path, kMaxConfigBytes);
    if (!generation_text.ok()) return generation_text.status();
    const absl::StatusOr<GenerationDefaults> defaults =
        ParseGenerationDefaults(generation_path, *generation_text);
    if (!defaults.ok()) return defaults.status();
    checkpoint_->generation_defaults_ = *defaults;
    return absl::OkStatus();
  }

  absl::Status OpenFiles() {
    const std::string single = Path("model.safetensors"), index = Path("model.safetensors.index.json");
    if (!FileExists(index)) return AddFile(single);
    if (FileExists(single)) {
      return absl::InvalidArgumentError(
          absl::StrCat(checkpoint_->dir_, ": has both model.safetensors and model.safetensors.index.json"));
    }
    const absl::StatusOr<std::map<std::string, std::string>> shards = ReadIndex(index);
    if (!shards.ok()) return shards.status();
    std::map<std::string, std::vector<std::string>> names_of;  // shard -> tensors
    for (const auto& [name, shard] : *shards) names_of[shard].push_back(name);
    for (const auto& [shard, names] : names_of) {
      const absl::Status status = AddFile(Path(shard));
      if (!status.ok()) return status;
    }
    return CheckIndex(index, *shards);
  }

  // The index and the shards agree on where every tensor is.
  absl::Status CheckIndex(const std::string& index, const std::map<std::string, std::string>& shards) {
    for (const auto& [name, shard] : shards) {
      const auto it = stored_.find(name);
      if (it == stored_.end() || it->second.file->path() != Path(shard)) {
        return absl::InvalidArgumentError(
            absl::StrCat(index, ": tensor ", Quoted(name), ": is not in ", Quoted(shard)));
      }
    }
    for (const auto& [name, stored] : stored_) {
      if (shards.count(std::string(name)) == 0) {
        return absl::InvalidArgumentError(
            absl::StrCat(index, ": tensor ", Quoted(name), " of ", stored.file->path(), " is not listed"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status AddFile(const std::string& path) {
    absl::StatusOr<std::unique_ptr<SafetensorsFile>> file = SafetensorsFile::Open(path);
    if (!file.ok()) return file.status();
    for (const SafetensorsEntry& entry : (*file)->entries()) {
      const auto [it, fresh] = stored_.try_emplace(entry.name, Stored{file->get(), &entry});
      if (!fresh) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ": tensor ", Quoted(entry.name), ": is also in ", it->second.file->path()));
      }
    }
    checkpoint_->files_.push_back(*std::move(file));
    return absl::OkStatus();
  }

  absl::Status BindTensors() {
    for (ExpectedTensor& expected : ExpectedTensors(checkpoint_->shape(), checkpoint_->tensors_)) {
      const auto it = stored_.find(expected.name);
      if (it == stored_.end()) {
        const std::string& where =
            checkpoint_->files_.size() == 1 ? checkpoint_->files_[0]->path() : checkpoint_->dir_;
        return absl::InvalidArgumentError(
            absl::StrCat(where, ": tensor ", Quoted(expected.name), ": is missing"));
      }
      const absl::Status status = Bind(expected, it->second);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status Bind(const ExpectedTensor& expected, Stored& stored) {
    const SafetensorsEntry& entry = *stored.entry;
    const std::string name = absl::StrCat(stored.file->path(), ": tensor ", Quoted(entry.name), ": ");
    const std::optional<DType> dtype = WeightType(entry.dtype);
    if (!dtype) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, "dtype ", entry.dtype, "; F32, BF16 or F16 is needed"));
    }
    if (entry.dims != expected.dims) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, "shape ", ShapeText(entry.dims), "; ", ShapeText(expected.dims), " is needed"));
    }
    stored.used = true;
    expected.view->dtype = *dtype;
    expected.view->dims = entry.dims;
    expected.view->data = Aligned(entry.bytes, ByteSize(*dtype));
    Count(entry, *dtype);
    return absl::OkStatus();
  }

  // The format does not promise alignment; backends read the numbers through typed pointers.
  const void* Aligned(absl::string_view bytes, int64_t alignment) {
    if (reinterpret_cast<uintptr_t>(bytes.data()) % alignment == 0) return bytes.data();
    auto copy = std::make_unique<char[]>(bytes.size());
    std::memcpy(copy.get(), bytes.data(), bytes.size());
    checkpoint_->aligned_copies_.push_back(std::move(copy));
    return checkpoint_->aligned_copies_.back().get();
  }

  void Count(const SafetensorsEntry& entry, DType dtype) {
    const bool first = checkpoint_->parameter_count_ == 0;
    checkpoint_->weights_dtype_ = first || checkpoint_->weights_dtype_ == dtype ? dtype : DType::kF32;
    checkpoint_->parameter_count_ += entry.bytes.size() / ByteSize(dtype);
    hash_.Add(entry.name);
    hash_.Add(entry.dtype);
    hash_.Add(entry.bytes);
  }

  absl::Status CheckNothingElse() {
    for (const auto& [name, stored] : stored_) {
      if (stored.used || IsIgnoredBuffer(name)) continue;
      const bool head = name == "lm_head.weight" && checkpoint_->shape().tied_head;
      return absl::InvalidArgumentError(absl::StrCat(stored.file->path(), ": tensor ", Quoted(name), ": ",
                                                     head ? "is stored although tie_word_embeddings is true"
                                                          : "is not part of a model of this config.json"));
    }
    return absl::OkStatus();
  }

  void Summarise() {
    const ModelShape& s = checkpoint_->shape();
    hash_.Add(absl::StrCat("sessa 1 ", s.vocab, " ", s.width, " ", s.layers, " ", s.heads, " ", s.kv_heads,
                           " ", s.use_rope, " ", s.tied_head));
    for (const double constant : {double{s.norm_eps}, s.rope_theta, s.gamma_max}) {
      hash_.Add(absl::string_view(reinterpret_cast<const char*>(&constant), sizeof(constant)));
    }
    checkpoint_->fingerprint_ = hash_.value();
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  std::map<absl::string_view, Stored> stored_;  // every tensor of every file, keyed by its entry's name
  Fingerprint hash_;
};

std::string Checkpoint::tokenizer_path() const {
  return config_.tokenizer_file.empty() ? "" : absl::StrCat(dir_, "/", config_.tokenizer_file);
}

absl::StatusOr<std::unique_ptr<Checkpoint>> LoadCheckpoint(const std::string& dir) {
  return CheckpointLoader(dir).Load();
}

}  // namespace sessa
