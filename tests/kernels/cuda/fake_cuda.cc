// The stand-in's control, kernels and devices.
#include "tests/kernels/cuda/fake_cuda.h"

#include <cuda.h>
#include <cuda_runtime.h>
#include <cxxabi.h>

#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "tests/kernels/cuda/fake_cuda_state.h"

#undef cudaGetDeviceProperties

namespace sessa::fake_cuda {

State& TheState() {
  static State state;
  return state;
}

namespace {

// Filled before main.
std::map<const void*, std::string>& KernelNames() {
  static std::map<const void*, std::string> names;
  return names;
}

// Dynamic shared memory that kernels may have. Reset leaves it: launchers remember what they did in this
// process, for the one device that it uses.
std::map<const void*, int>& OptedIn() {
  static std::map<const void*, int> bytes;
  return bytes;
}

cudaError_t LaunchKernel(const void* kernel, cudaStream_t stream, void** arguments, dim3 grid,
                         size_t shared) {
  State& state = TheState();
  const std::string& name = KernelNames()[kernel];
  if (StreamOf(stream)->device != current_device) return Return(cudaErrorInvalidResourceHandle);
  if (shared > 47 * 1024 && OptedIn()[kernel] < static_cast<int>(shared)) {
    return Return(cudaErrorInvalidValue);
  }
  if (state.launch_error != cudaSuccess && name.find(state.failing_kernel) != std::string::npos) {
    return Return(state.launch_error);
  }
  state.launches.push_back({name, stream, current_device, grid.x, grid.y, static_cast<int64_t>(shared),
                            StreamOf(stream)->capturing != nullptr});
  Work work;
  for (const auto& [part, body] : state.bodies) {
    if (name.find(part) != std::string::npos) work = body(arguments);
  }
  Issue(stream, std::move(work), name);
  return cudaSuccess;
}

}  // namespace

cudaError_t Return(cudaError_t error) {
  if (error != cudaSuccess) TheState().last_error = error;
  return error;
}

void RunUpTo(Stream* stream, int64_t position) {
  while (stream->done < position) {
    const Work work = std::move(stream->work.front());
    stream->work.pop_front();
    ++stream->done;
    if (work) work();
  }
}

void RunAll() {
  for (Stream* stream : TheState().streams) RunUpTo(stream, stream->issued);
  TheState().clearing = false;
}

Stream* StreamOf(cudaStream_t handle) {
  assert(TheState().streams.count(reinterpret_cast<Stream*>(handle)) != 0);
  return reinterpret_cast<Stream*>(handle);
}

void Issue(cudaStream_t handle, Work work, const std::string& what) {
  Stream* const stream = StreamOf(handle);
  if (TheState().clearing) {
    TheState().complaints.push_back(what + " while a memset of the legacy stream is under way");
    TheState().clearing = false;
  }
  if (stream->capturing != nullptr) return stream->capturing->work.push_back(std::move(work));
  stream->work.push_back(std::move(work));
  ++stream->issued;
}

void Reset(const Machine& machine) {
  assert(LivingObjects() == 0);
  TheState() = State();
  TheState().machine = machine;
  current_device = 0;
}

const std::vector<Launch>& Launches() { return TheState().launches; }

int CountLaunches(std::string_view kernel) {
  int count = 0;
  for (const Launch& launch : Launches()) count += launch.kernel.find(kernel) != std::string::npos;
  return count;
}

void FailDeviceAllocation(int skip) { TheState().failing_device_allocation = skip; }
void FailPinnedAllocation(int skip) { TheState().failing_pinned_allocation = skip; }
void FailLaunch(std::string_view kernel, cudaError_t error) {
  TheState().failing_kernel = kernel;
  TheState().launch_error = error;
}
void FailWaiting(cudaError_t error) { TheState().wait_error = error; }

int DeviceAllocations() { return TheState().device_allocations; }
int PinnedAllocations() { return TheState().pinned_allocations; }

int64_t UsedMemory(int device) {
  int64_t bytes = 0;
  for (const auto& [first, memory] : TheState().memory) bytes += memory.device == device ? memory.bytes : 0;
  return bytes;
}

int LivingObjects() {
  const State& state = TheState();
  return static_cast<int>(state.objects.size() + state.memory.size() + state.pinned.size());
}

const std::vector<std::string>& Complaints() { return TheState().complaints; }

void SetBody(std::string_view kernel, std::function<Work(void**)> body) {
  TheState().bodies.emplace_back(kernel, std::move(body));
}

}  // namespace sessa::fake_cuda

using namespace sessa::fake_cuda;  // what follows belongs to no namespace

extern "C" {

// --- what nvcc's host code calls ---

void** __cudaRegisterFatBinary(void*) {
  static void* handles[256];
  static int count = 0;
  return &handles[count++];
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void**, const char* kernel, char*, const char* name, int, uint3*, uint3*, dim3*,
                            dim3*, int*) {
  char* const plain = abi::__cxa_demangle(name, nullptr, nullptr, nullptr);
  KernelNames()[kernel] = plain != nullptr ? plain : name;
  std::free(plain);
}
cudaError_t __cudaGetKernel(cudaKernel_t* handle, const void* kernel) {
  *handle = static_cast<cudaKernel_t>(const_cast<void*>(kernel));
  return cudaSuccess;
}
static thread_local struct {
  dim3 grid, block;
  size_t shared;
  void* stream;
} configuration;
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<void**>(stream) = configuration.stream;
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return LaunchKernel(kernel, stream, arguments, grid, shared);
}
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3, void** arguments, size_t shared,
                             cudaStream_t stream) {
  return LaunchKernel(kernel, stream, arguments, grid, shared);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
  return LaunchKernel(kernel, config->stream, arguments, config->gridDim, config->dynamicSmemBytes);
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->ptxVersion = TheState().machine.ptx_version;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value > kOptInShared) return Return(cudaErrorInvalidValue);
  OptedIn()[kernel] = value;
  return cudaSuccess;
}

// --- devices ---

cudaError_t cudaDriverGetVersion(int* version) {
  *version = TheState().machine.driver;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = TheState().machine.devices;
  return *count > 0 ? cudaSuccess : Return(cudaErrorNoDevice);
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= TheState().machine.devices) return Return(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "Stand-in %d", device);
  properties->major = 9;
  properties->multiProcessorCount = TheState().machine.multiprocessors;
  properties->sharedMemPerBlockOptin = kOptInShared;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = TheState().machine.multiprocessors;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = kOptInShared;
      return cudaSuccess;
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      return cudaSuccess;
    default:
      *value = 0;
      return cudaSuccess;
  }
}
cudaError_t cudaDeviceSynchronize() {
  RunAll();
  return Return(TheState().wait_error);
}
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  // cuTensorMapEncodeTiled, the only one that is asked for: maps are for kernels.
  using Encode = decltype(&cuTensorMapEncodeTiled);
  const Encode encode = [](CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                           const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                           CUtensorMapSwizzle, CUtensorMapL2promotion,
                           CUtensorMapFloatOOBfill) { return CUDA_SUCCESS; };
  *function = reinterpret_cast<void*>(encode);
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
const char* cudaGetErrorName(cudaError_t error) {
  static thread_local char name[32];
  std::snprintf(name, sizeof name, "cudaError%d", static_cast<int>(error));
  return name;
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetLastError() { return std::exchange(TheState().last_error, cudaSuccess); }

}  // extern "C"
