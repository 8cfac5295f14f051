#include "kernels/cuda/cuda_plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/plugin_entry.h"

namespace sessa {
namespace {

constexpr char kPluginFile[] = "libsessa_cuda.so";

std::string ProgramFolder() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  if (length <= 0) return "";
  const std::string program(path, length);
  return program.substr(0, program.rfind('/') + 1);
}

// The plugin beside the program, beside it in ../bin (tests), or on the linker's path.
absl::StatusOr<void*> OpenPlugin() {
  std::string reason;
  for (const std::string& folder : {ProgramFolder(), ProgramFolder() + "../bin/", std::string()}) {
    const std::string path = folder + kPluginFile;
    if (!folder.empty() && access(path.c_str(), R_OK) != 0) continue;
    if (void* plugin = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return plugin;
    const char* error = dlerror();
    if (reason.empty()) reason = error != nullptr ? error : "unknown error";
  }
  return absl::UnavailableError(absl::StrCat("the CUDA backend cannot be loaded: ", reason));
}

// Looked for before the plugin, which would take 150 MB of cuBLAS into memory to say the same.
bool HasDriver() {
  void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver != nullptr) dlclose(driver);
  return driver != nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> LoadCudaOps(const ModelShape& shape, const ModelTensors& tensors,
                                                 const OpsOptions& options) {
  if (!HasDriver()) return absl::UnavailableError("CUDA backend: there is no NVIDIA driver");
  absl::StatusOr<void*> plugin = OpenPlugin();
  if (!plugin.ok()) return plugin.status();
  const auto create = reinterpret_cast<CreateCudaOpsEntry>(dlsym(*plugin, kCreateCudaOpsSymbol));
  if (create == nullptr) {
    return absl::UnavailableError(
        absl::StrCat(kPluginFile, " is not of this version: it has no ", kCreateCudaOpsSymbol));
  }
  absl::StatusOr<std::unique_ptr<Ops>> ops = absl::UnavailableError("the CUDA backend was not created");
  create(shape, tensors, options, &ops);
  return ops;
}

}  // namespace sessa
