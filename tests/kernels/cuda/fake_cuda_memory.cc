// The stand-in's memory, streams, events and graphs.
#include <sys/mman.h>

#include <cassert>
#include <cstdlib>
#include <cstring>

#include "tests/kernels/cuda/fake_cuda_state.h"

namespace sessa::fake_cuda {
namespace {

bool Within(const Blocks& blocks, const void* pointer, size_t bytes) {
  const char* const first = static_cast<const char*>(pointer);
  auto after = blocks.upper_bound(first);
  if (after == blocks.begin()) return false;
  const auto& [begin, block] = *--after;
  return first + bytes <= begin + block.bytes;
}

bool OnDevice(const void* pointer, size_t bytes) { return Within(TheState().memory, pointer, bytes); }

bool CopyIsSound(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return to != nullptr && from != nullptr && (!to_device || OnDevice(to, bytes)) &&
         (!from_device || OnDevice(from, bytes));
}

}  // namespace
}  // namespace sessa::fake_cuda

using namespace sessa::fake_cuda;  // what follows belongs to no namespace

extern "C" {

// --- memory ---

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  State& state = TheState();
  ++state.device_allocations;
  const bool fails = state.failing_device_allocation >= 0 && state.failing_device_allocation-- == 0;
  if (fails || UsedMemory(current_device) + static_cast<int64_t>(bytes) > state.machine.memory) {
    return Return(cudaErrorMemoryAllocation);
  }
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return Return(cudaErrorMemoryAllocation);
  state.memory[static_cast<const char*>(memory)] = {static_cast<int64_t>(bytes), current_device};
  *pointer = memory;
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  RunAll();
  const auto found = TheState().memory.find(static_cast<const char*>(pointer));
  if (found == TheState().memory.end()) return Return(cudaErrorInvalidValue);
  munmap(pointer, found->second.bytes);
  TheState().memory.erase(found);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  State& state = TheState();
  ++state.pinned_allocations;
  if (state.failing_pinned_allocation >= 0 && state.failing_pinned_allocation-- == 0) {
    return Return(cudaErrorMemoryAllocation);
  }
  *pointer = std::malloc(bytes);
  std::memset(*pointer, 0xee, bytes);
  state.pinned[static_cast<const char*>(*pointer)] = {static_cast<int64_t>(bytes), 0};
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* pointer) {
  RunAll();
  if (TheState().pinned.erase(static_cast<const char*>(pointer)) == 0) return Return(cudaErrorInvalidValue);
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = TheState().machine.memory;
  *free = *total - UsedMemory(current_device);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  TheState().clearing = false;  // of the same stream
  if (!CopyIsSound(to, from, bytes, kind)) return Return(cudaErrorInvalidValue);
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (!CopyIsSound(to, from, bytes, kind)) return Return(cudaErrorInvalidValue);
  if (kind == cudaMemcpyHostToDevice && !Within(TheState().pinned, from, bytes)) {  // pageable: read at once
    std::vector<char> now(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    Issue(
        stream, [to, now] { std::memcpy(to, now.data(), now.size()); }, "a copy");
  } else {
    Issue(
        stream, [=] { std::memcpy(to, from, bytes); }, "a copy");
  }
  return cudaSuccess;
}
static void Clear(void* memory, int value, size_t bytes) {
  // Large memory that nobody touches stays untouched.
  constexpr size_t kPage = 4096;
  if (value == 0 && bytes >= 256 * kPage && reinterpret_cast<uintptr_t>(memory) % kPage == 0) {
    const size_t whole = bytes / kPage * kPage;
    madvise(memory, whole, MADV_DONTNEED);
    memory = static_cast<char*>(memory) + whole;
    bytes -= whole;
  }
  std::memset(memory, value, bytes);
}
cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  if (!OnDevice(memory, bytes)) return Return(cudaErrorInvalidValue);
  Clear(memory, value, bytes);
  TheState().clearing = true;
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  if (!OnDevice(memory, bytes)) return Return(cudaErrorInvalidValue);
  Issue(
      stream, [=] { Clear(memory, value, bytes); }, "a memset");
  return cudaSuccess;
}

// --- streams, events, graphs ---

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned) {
  Stream* const stream = Remember(new Stream);
  stream->device = current_device;
  TheState().streams.insert(stream);
  *handle = reinterpret_cast<cudaStream_t>(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  Stream* const stream = StreamOf(handle);
  RunUpTo(stream, stream->issued);
  TheState().streams.erase(stream);
  return Forget<Stream>(stream);
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  if (handle == cudaStreamLegacy) {
    TheState().clearing = false;
  } else {
    RunUpTo(StreamOf(handle), StreamOf(handle)->issued);
  }
  return Return(TheState().wait_error);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned) {
  const Event event = *reinterpret_cast<Event*>(event_handle);
  if (event.stream != nullptr)
    Issue(
        handle, [event] { RunUpTo(event.stream, event.position); }, "a wait");
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned) {
  Event* const event = Remember(new Event);
  event->device = current_device;
  *handle = reinterpret_cast<cudaEvent_t>(event);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* handle) { return cudaEventCreateWithFlags(handle, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return Forget<Event>(event); }
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  Event* const event = reinterpret_cast<Event*>(handle);
  if (event->device != StreamOf(stream)->device || event->device != current_device) {
    return Return(cudaErrorInvalidResourceHandle);
  }
  event->stream = StreamOf(stream);
  event->position = event->stream->issued;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  const Event& event = *reinterpret_cast<Event*>(handle);
  if (event.stream != nullptr) RunUpTo(event.stream, event.position);
  return Return(TheState().wait_error);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = TheState().machine.milliseconds_between_events;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  StreamOf(stream)->capturing = std::make_unique<Graph>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = reinterpret_cast<cudaGraph_t>(Remember(StreamOf(stream)->capturing.release()));
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = reinterpret_cast<cudaGraphExec_t>(Remember(new Graph(*reinterpret_cast<Graph*>(graph))));
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (StreamOf(stream)->device != current_device) return Return(cudaErrorInvalidResourceHandle);
  TheState().launches.push_back({"graph", stream, current_device});
  for (const Work& work : reinterpret_cast<Graph*>(exec)->work) Issue(stream, work, "graph");
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return Forget<Graph>(graph); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return Forget<Graph>(exec); }

}  // extern "C"
