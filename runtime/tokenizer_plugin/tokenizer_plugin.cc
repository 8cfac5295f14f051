// The only translation unit that sees SentencePiece, whose header defines an absl::string_view of its own.
#include <sentencepiece_processor.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "runtime/tokenizer_plugin/tokenizer_api.h"

namespace {

using sentencepiece::SentencePieceProcessor;

const SentencePieceProcessor& Processor(const void* tokenizer) {
  return *static_cast<const SentencePieceProcessor*>(tokenizer);
}

void* Open(const char* model, size_t size, char* error, size_t error_size) {
  try {
    auto processor = std::make_unique<SentencePieceProcessor>();
    const auto status = processor->LoadFromSerializedProto({model, size});
    if (status.ok()) return processor.release();
    std::snprintf(error, error_size, "%s", status.ToString().c_str());
  } catch (const std::exception& e) {
    std::snprintf(error, error_size, "%s", e.what());
  }
  return nullptr;
}

void Close(void* tokenizer) { delete static_cast<SentencePieceProcessor*>(tokenizer); }

int32_t VocabSize(const void* tokenizer) { return Processor(tokenizer).GetPieceSize(); }

SessaPiece Piece(const void* tokenizer, int32_t id) {
  const SentencePieceProcessor& processor = Processor(tokenizer);
  const std::string& name = processor.IdToPiece(id);
  const SessaPieceKind kind = processor.IsByte(id)                                 ? kSessaPieceByte
                              : processor.IsControl(id) || processor.IsUnknown(id) ? kSessaPieceSpecial
                                                                                   : kSessaPieceText;
  return {name.data(), name.size(), kind};
}

bool Encode(const void* tokenizer, const char* text, size_t size, SessaIdsSink sink, void* context) {
  try {
    std::vector<int> ids;
    if (!Processor(tokenizer).Encode({text, size}, &ids).ok()) return false;
    sink(context, ids.data(), ids.size());
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const SessaTokenizerApi sessa_tokenizer_api = {
    kSessaTokenizerApiVersion, Open, Close, VocabSize, Piece, Encode};
