// The C interface between runtime/tokenizer.cc and libsessa_tokenizer.so. Bytes and numbers only: the two
// sides have different copies of the C++ library.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// Changes with every change of this file; both sides are built together.
inline constexpr int32_t kSessaTokenizerApiVersion = 1;

enum SessaPieceKind : int32_t { kSessaPieceText, kSessaPieceByte, kSessaPieceSpecial };

struct SessaPiece {
  const char* name;  // as in the model file; not NUL-terminated; valid as long as the tokenizer
  size_t size;
  SessaPieceKind kind;
};

typedef void (*SessaIdsSink)(void* context, const int32_t* ids, size_t count);

// What the plugin exports as `sessa_tokenizer_api`. A tokenizer is constant after open: any thread may use
// it.
struct SessaTokenizerApi {
  int32_t version;
  // From the bytes of a SentencePiece model file that CheckTokenizerModel accepts. nullptr on failure, with a
  // NUL-terminated reason in error.
  void* (*open)(const char* model, size_t size, char* error, size_t error_size);
  void (*close)(void* tokenizer);
  int32_t (*vocab_size)(const void* tokenizer);
  SessaPiece (*piece)(const void* tokenizer, int32_t id);  // id in [0, vocab_size)
  // Gives the ids to the sink, once. False when the library fails.
  bool (*encode)(const void* tokenizer, const char* text, size_t size, SessaIdsSink sink, void* context);
};

}  // extern "C"
