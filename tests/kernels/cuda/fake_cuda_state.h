// The state of the stand-in for CUDA. Internal to fake_cuda*.cc.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/kernels/cuda/fake_cuda.h"

namespace sessa::fake_cuda {

struct Graph {
  std::vector<Work> work;
};

struct Stream {
  int device = 0;
  std::deque<Work> work;         // not done yet
  int64_t issued = 0, done = 0;  // counted
  std::unique_ptr<Graph> capturing;
};

struct Event {
  int device = 0;
  Stream* stream = nullptr;  // recorded last on it, behind so much work
  int64_t position = 0;
};

// Allocations by their first byte.
struct Block {
  int64_t bytes = 0;
  int device = 0;
};
using Blocks = std::map<const char*, Block>;

struct State {
  Machine machine;
  std::vector<Launch> launches;
  std::vector<std::string> complaints;
  Blocks memory, pinned;
  std::set<void*> objects;
  std::set<Stream*> streams;
  std::vector<std::pair<std::string, std::function<Work(void**)>>> bodies;
  std::string failing_kernel;
  cudaError_t launch_error = cudaSuccess, wait_error = cudaSuccess, last_error = cudaSuccess;
  int device_allocations = 0, pinned_allocations = 0;
  int failing_device_allocation = -1, failing_pinned_allocation = -1;
  bool clearing = false;  // a memset of the legacy stream is under way
};

State& TheState();
inline thread_local int current_device = 0;

// What every call returns with: cudaGetLastError tells it once more.
cudaError_t Return(cudaError_t error);

// The stream of a handle; the default one is not for the backend.
Stream* StreamOf(cudaStream_t handle);
void Issue(cudaStream_t stream, Work work, const std::string& what);
void RunUpTo(Stream* stream, int64_t position);
void RunAll();

template <typename Object>
Object* Remember(Object* object) {
  TheState().objects.insert(object);
  return object;
}

template <typename Object>
cudaError_t Forget(void* object) {
  if (TheState().objects.erase(object) == 0) return Return(cudaErrorInvalidResourceHandle);
  delete static_cast<Object*>(object);
  return cudaSuccess;
}

}  // namespace sessa::fake_cuda
