#include "tools/golden_case.h"

#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoint/safetensors.h"

namespace sessa {
namespace {

absl::StatusOr<absl::string_view> Bytes(const SafetensorsFile& file, const std::string& name,
                                        absl::string_view dtype) {
  const SafetensorsEntry* entry = file.Find(name);
  if (entry == nullptr) return absl::NotFoundError(absl::StrCat(file.path(), ": no tensor ", name));
  if (entry->dtype != dtype) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": tensor ", name, " is not ", dtype));
  }
  return entry->bytes;
}

absl::Status ReadFloats(const SafetensorsFile& file, const std::string& name, std::vector<float>* out) {
  absl::StatusOr<absl::string_view> bytes = Bytes(file, name, "F32");
  if (!bytes.ok()) return bytes.status();
  out->resize(bytes->size() / sizeof(float));
  std::memcpy(out->data(), bytes->data(), bytes->size());
  return absl::OkStatus();
}

absl::Status ReadIds(const SafetensorsFile& file, const std::string& name, std::vector<int32_t>* out) {
  absl::StatusOr<absl::string_view> bytes = Bytes(file, name, "I64");
  if (!bytes.ok()) return bytes.status();
  std::vector<int64_t> wide(bytes->size() / sizeof(int64_t));
  std::memcpy(wide.data(), bytes->data(), bytes->size());
  out->assign(wide.begin(), wide.end());
  return absl::OkStatus();
}

absl::Status ReadExpected(const SafetensorsFile& file, GoldenCase* golden) {
  absl::Status status = ReadIds(file, "tokens", &golden->tokens);
  status.Update(ReadIds(file, "greedy", &golden->greedy));
  status.Update(ReadFloats(file, "greedy_margin", &golden->greedy_margins));
  status.Update(ReadFloats(file, "logits", &golden->expected.logits));
  std::vector<int32_t> prompt_tokens;
  status.Update(ReadIds(file, "prompt_len", &prompt_tokens));
  if (!status.ok()) return status;
  golden->prompt_tokens = prompt_tokens.at(0);
  for (int32_t layer = 0; layer < golden->checkpoint->shape().layers; ++layer) {
    auto& planes = golden->expected.planes.emplace_back();
    const char* names[] = {"k_f", "v_f", "k_b", "s"};  // in the order of Plane
    for (int i = 0; i < 4; ++i) {
      status.Update(ReadFloats(file, absl::StrCat("layer", layer, ".", names[i]), &planes[i]));
    }
  }
  return status;
}

}  // namespace

absl::StatusOr<GoldenCase> LoadGoldenCase(const std::string& dir) {
  GoldenCase golden;
  golden.name = std::filesystem::path(dir + "/").parent_path().filename().string();
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = LoadCheckpoint(dir);
  if (!checkpoint.ok()) return checkpoint.status();
  golden.checkpoint = *std::move(checkpoint);
  absl::StatusOr<std::unique_ptr<SafetensorsFile>> file =
      SafetensorsFile::Open(dir + "/expected.safetensors");
  if (!file.ok()) return file.status();
  absl::Status status = ReadExpected(**file, &golden);
  if (!status.ok()) return status;
  return golden;
}

absl::StatusOr<std::vector<RecallPrompt>> LoadRecallPrompts(const std::string& file) {
  absl::StatusOr<std::string> text = ReadSmallFile(file, 1 << 24);
  if (!text.ok()) return text.status();
  const nlohmann::json entries = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!entries.is_array()) return absl::InvalidArgumentError(absl::StrCat(file, ": not a JSON array"));
  std::vector<RecallPrompt> prompts;
  for (const nlohmann::json& entry : entries) {
    try {
      prompts.push_back({entry.at("prompt_token_ids").get<std::vector<int32_t>>(),
                         entry.at("greedy_token_ids").get<std::vector<int32_t>>(),
                         entry.at("greedy_text").get<std::string>()});
    } catch (const nlohmann::json::exception& e) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": entry ", prompts.size(), ": ", e.what()));
    }
  }
  return prompts;
}

}  // namespace sessa
