// A stand-in for the CUDA runtime, for tests of the backend's host code on machines without a card. A test
// that has fake_cuda.cc and fake_cublaslt.cc among its sources uses it instead of the libraries, which it
// then does not link.
//
// Device memory is host memory, zero at first. What goes to a stream waits there until somebody waits for it,
// so that memory which is used again too early shows. Kernels do nothing but what OnLaunch says. What it
// insists on:
// - Every thread has a current device, 0 at first. Streams, events and memory belong to the one at their
// making; to
//   launch or to record on another device's stream is cudaErrorInvalidResourceHandle.
// - Dynamic shared memory beyond 47 KiB (1 KiB is taken to be static) must be opted in for, at most
// kOptInShared.
// - The device's side of a copy lies within one allocation.
// - A memset of the legacy stream is waited for before anything goes to another stream: else see Complaints.
//
// One thread at a time; which one may change.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace sessa::fake_cuda {

inline constexpr int kOptInShared = 232448;

struct Machine {
  int devices = 1;
  int driver = 13000;                  // 0: there is none
  int64_t memory = int64_t{64} << 30;  // bytes of each device
  int ptx_version = 90;  // of the code that runs: 90 for sm_90a, 80 for what the driver made of PTX
  int multiprocessors = 132;
  float milliseconds_between_events = 2;  // whichever they are
};

// Another machine: no records, no failures to come, no bodies of kernels. Nothing may be left on the one
// before.
void Reset(const Machine& machine = {});

struct Launch {
  std::string kernel;  // its name with namespaces and arguments; "graph" for the launch of a captured one
  cudaStream_t stream = nullptr;
  int device = 0;
  unsigned grid_x = 0, grid_y = 0;
  int64_t shared_bytes = 0;  // dynamic
  bool captured = false;     // recorded into a graph, not run
};
const std::vector<Launch>& Launches();       // since Reset
int CountLaunches(std::string_view kernel);  // whose names contain it, captured ones included

// The calls that allocate, from now on: `skip` succeed, then one fails for want of memory. -1: none fails.
void FailDeviceAllocation(int skip);
void FailPinnedAllocation(int skip);
// Launches of kernels whose names contain `kernel` fail.
void FailLaunch(std::string_view kernel, cudaError_t error);
// Waiting for the device fails, as after a fault.
void FailWaiting(cudaError_t error);

int DeviceAllocations();  // calls since Reset
int PinnedAllocations();
int64_t UsedMemory(int device);  // bytes allocated
int LivingObjects();             // streams, events, graphs and allocations of either kind
const std::vector<std::string>& Complaints();

// What kernels do whose names contain `kernel`: `body` gets their first parameter, when their turn on the
// stream comes. Params: of that parameter's type, trivially copyable.
template <typename Params>
void OnLaunch(std::string_view kernel, std::function<void(const Params&)> body);

// --- for OnLaunch ---
using Work = std::function<void()>;
void SetBody(std::string_view kernel, std::function<Work(void** arguments)> body);

template <typename... Params, typename Body>
void OnLaunch(std::string_view kernel, Body body) {
  SetBody(kernel, [body](void** arguments) -> Work {
    std::tuple<Params...> params = [&]<size_t... i>(std::index_sequence<i...>) {
      return std::tuple<Params...>{*static_cast<const Params*>(arguments[i])...};
    }
    (std::index_sequence_for<Params...>());
    return [body, params = std::move(params)] { std::apply(body, params); };
  });
}

}  // namespace sessa::fake_cuda
