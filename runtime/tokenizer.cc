#include "runtime/tokenizer.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "runtime/base/mutex.h"
#include "runtime/checkpoint/mapped_file.h"
#include "runtime/text/utf8.h"
#include "runtime/tokenizer_plugin/model_file.h"
#include "runtime/tokenizer_plugin/tokenizer_api.h"

namespace sessa {
namespace {

constexpr char kPluginName[] = "libsessa_tokenizer.so";
constexpr size_t kMaxModelBytes = 256 << 20;

std::string ProgramFolder() {
  char path[4096];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof(path));
  const absl::string_view program(path, size < 0 ? 0 : static_cast<size_t>(size));
  const size_t slash = program.rfind('/');
  return slash == absl::string_view::npos ? "." : std::string(program.substr(0, slash));
}

// Where the plugin may lie: as the caller says, beside the program, in an installation, beside a test's
// programs.
std::vector<std::string> PluginFolders(const std::string& plugin_dir) {
  const std::string program = ProgramFolder();
  std::vector<std::string> folders = {program, program + "/../lib/sessad", program + "/../bin"};
  if (!plugin_dir.empty()) folders.insert(folders.begin(), plugin_dir);
  return folders;
}

absl::StatusOr<const SessaTokenizerApi*> OpenPlugin(const std::string& plugin_dir) {
  const std::vector<std::string> folders = PluginFolders(plugin_dir);
  for (const std::string& folder : folders) {
    const std::string path = absl::StrCat(folder, "/", kPluginName);
    if (!FileExists(path)) continue;
    // A namespace of its own: libsentencepiece exports a protobuf that clashes with ours.
    void* const library = dlmopen(LM_ID_NEWLM, path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return absl::UnavailableError(absl::StrCat(path, ": ", dlerror()));
    const void* const symbol = dlsym(library, "sessa_tokenizer_api");
    const auto* const api = static_cast<const SessaTokenizerApi*>(symbol);
    if (api != nullptr && api->version == kSessaTokenizerApiVersion) return api;
    dlclose(library);
    return absl::UnavailableError(absl::StrCat(path, ": is of another version of this program"));
  }
  return absl::NotFoundError(absl::StrCat(kPluginName, " is in none of ", absl::StrJoin(folders, ", ")));
}

// The plugin, opened once and for good: a process has few namespaces.
absl::StatusOr<const SessaTokenizerApi*> Plugin(const std::string& plugin_dir) {
  static Mutex mutex;
  static const SessaTokenizerApi* api = nullptr;
  MutexLock lock(&mutex);
  if (api == nullptr) {
    const absl::StatusOr<const SessaTokenizerApi*> opened = OpenPlugin(plugin_dir);
    if (!opened.ok()) return opened.status();
    api = *opened;
  }
  return api;
}

// The byte of a piece named "<0x0A>"; the name of a byte piece is checked by SentencePiece.
char ByteOf(absl::string_view name) {
  int value = 0;
  for (const char c : name.substr(3, 2)) {
    value = value * 16 + (absl::ascii_isdigit(c) ? c - '0' : absl::ascii_toupper(c) - 'A' + 10);
  }
  return static_cast<char>(value);
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(const SessaTokenizerApi* api, void* handle, const TokenizerFacts& facts)
      : api_(api), handle_(handle) {
    const int32_t size = api_->vocab_size(handle_);
    tokens_.reserve(size);
    for (int32_t id = 0; id < size; ++id) {
      const SessaPiece piece = api_->piece(handle_, id);
      const absl::string_view name(piece.name, piece.size);
      Token token{std::string(name), "", piece.kind == kSessaPieceSpecial};
      if (piece.kind == kSessaPieceByte) token.bytes = std::string(1, ByteOf(name));
      if (piece.kind == kSessaPieceText) token.bytes = absl::StrReplaceAll(name, {{"\xE2\x96\x81", " "}});
      // By its name: the three bytes of a literal U+2581 become one of a space's.
      if (facts.keeps_every_byte) longest_ = std::max(longest_, static_cast<int64_t>(token.name.size()));
      tokens_.push_back(std::move(token));
    }
  }
  ~SentencePieceTokenizer() override { api_->close(handle_); }

  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  absl::string_view TokenBytes(int32_t id) const override { return Get(id).bytes; }
  absl::string_view TokenName(int32_t id) const override { return Get(id).name; }
  bool IsSpecial(int32_t id) const override { return Get(id).special; }
  int64_t MostBytesPerToken() const override { return longest_; }

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const override {
    if (!IsValidUtf8(text)) return absl::InvalidArgumentError("the text is not valid UTF-8");
    std::vector<int32_t> ids;
    const auto sink = [](void* context, const int32_t* data, size_t count) {
      static_cast<std::vector<int32_t>*>(context)->assign(data, data + count);
    };
    if (!api_->encode(handle_, text.data(), text.size(), sink, &ids)) {
      return absl::InternalError("SentencePiece could not encode the text");
    }
    return ids;
  }

 private:
  struct Token {
    std::string name, bytes;
    bool special = false;
  };
  const Token& Get(int32_t id) const {
    static const Token kNone;
    return id >= 0 && id < vocab_size() ? tokens_[id] : kNone;
  }

  const SessaTokenizerApi* const api_;
  void* const handle_;
  std::vector<Token> tokens_;  // by id
  int64_t longest_ = 0;        // MostBytesPerToken
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceTokenizer(const std::string& model_file,
                                                                      const std::string& plugin_dir) {
  const absl::StatusOr<std::string> model = ReadSmallFile(model_file, kMaxModelBytes);
  if (!model.ok()) return model.status();
  return OpenSentencePieceTokenizer(model_file, *model, plugin_dir);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenSentencePieceTokenizer(absl::string_view name,
                                                                      absl::string_view model,
                                                                      const std::string& plugin_dir) {
  const absl::StatusOr<const SessaTokenizerApi*> api = Plugin(plugin_dir);
  if (!api.ok()) return api.status();
  const auto refuse = [name](absl::string_view reason) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not a SentencePiece model: ", reason));
  };
  const absl::StatusOr<TokenizerFacts> facts = CheckTokenizerModel(model);
  if (!facts.ok()) return refuse(facts.status().message());
  char error[512] = "";
  void* const handle = (*api)->open(model.data(), model.size(), error, sizeof(error));
  if (handle == nullptr) return refuse(error);
  return std::make_unique<SentencePieceTokenizer>(*api, handle, *facts);
}

absl::Status CheckTokenizerFits(const Tokenizer& tokenizer, int32_t model_vocab,
                                const std::string& model_file) {
  if (tokenizer.vocab_size() <= model_vocab) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(model_file, ": has ", tokenizer.vocab_size(), " tokens, the model only ", model_vocab));
}

}  // namespace sessa
